# SPDX-License-Identifier: Apache-2.0
"""Whole runs of ``megacpt train`` on either kind of device, and what they are held against."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.forked import PYTHON
from tests.run_on_ranks import run_on_ranks
from tests.support import write_model_folder

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a model and of its steps: ``samples`` a step, ``micro`` of them at once."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    length: int
    samples: int
    micro: int
    steps: int


SMALL = Shape(
    hidden=256,
    mlp=512,
    layers=2,
    heads=4,
    kv_heads=2,
    vocabulary=512,
    length=64,
    samples=4,
    micro=2,
    steps=8,
)
"""For numbers that are compared."""
LARGE = Shape(
    hidden=2048,
    mlp=5632,
    layers=16,
    heads=16,
    kv_heads=8,
    vocabulary=32000,
    length=2048,
    samples=16,
    micro=4,
    steps=12,
)
"""1.0 B parameters: large enough to fill a GPU of 40 GB, for speed and memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run has left in its folder."""

    losses: list[float]
    step_s: float
    """Median of the second half of the steps: the first compile kernels and fill caches."""
    mfu: float
    peak_gib: float
    planned_gib: float
    environment: dict[str, Any]


def train(work: Path, *, device: str, shape: Shape, settings: tuple[str, ...] = ()) -> Trained:
    """Run it in processes of its own, as a user would."""
    model = write_model_folder(
        work / "model",
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.length,
        initializer_range=0.02,
    )
    words = [
        *(PYTHON, "-m", "megacpt", "train", "experiment=tiny", "precision=bf16"),
        *(f"run_dir={work / 'run'}", f"model.path={model}", f"cluster.device={device}"),
        *(f"data.sequence_length={shape.length}", f"data.global_batch_size={shape.samples}"),
        *(f"data.micro_batch_size={shape.micro}", f"schedule.steps={shape.steps}"),
        *("schedule.warmup_steps=2", "optim.lr_peak=1e-3", "evaluate.prompts=null"),
        *("monitor.wandb=disabled", *settings),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return _read(work / "run")


def _read(run_dir: Path) -> Trained:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "loss" in record]
    settled = steps[len(steps) // 2 :]
    plan = json.loads((run_dir / "plan.json").read_text())
    return Trained(
        losses=[step["loss"] for step in steps],
        step_s=statistics.median(step["step_s"] for step in settled),
        mfu=statistics.median(step["mfu"] for step in settled),
        peak_gib=max(step["peak_memory_gib"] for step in steps),
        planned_gib=plan["memory_total_bytes"] / 2**30,
        environment=json.loads((run_dir / "environment.json").read_text()),
    )


def floor_s(work: Path, *, device: str, shape: Shape) -> float:
    """Seconds a step of that shape would take if it were its matrix products alone."""
    cases = {"device": device, "shape": asdict(shape)}
    run_on_ranks("tests.gpu.floor:write_floor", work, world=1, cases=cases)
    return float(json.loads((work / "floor.json").read_text())["step_s"])
