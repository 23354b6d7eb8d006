# SPDX-License-Identifier: Apache-2.0
"""Runs of an adapter: in some layers alone, resumed, and beside no other weights than their own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from megacpt.families.stored.fingerprint import fingerprint
from tests.cluster.test_prepare import write_weights
from tests.forked import PYTHON

pytestmark = [pytest.mark.mcore, pytest.mark.slow]
SETTINGS = (
    *("experiment=tiny", "model=pretrained", "model.allow_unhealthy=true"),
    *("adapter=lora", "adapter.rank=4", "adapter.layers=1-2", "precision=fp32"),
    *("schedule.steps=4", "checkpoint.every_steps=2", "data.sequence_length=32"),
    *("evaluate.heldout={}", "evaluate.domain=null", "evaluate.general=null"),
    *("cluster.device=cpu", "monitor.wandb=disabled", "evaluate.prompts=null"),
)


def megacpt(*words: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "megacpt", *words]
    return subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)


def losses(run_dir: Path) -> dict[int, Any]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record.get("loss") for record in map(json.loads, lines)}


def test_some_layers_alone_go_on_beside_their_own_base(tmp_path: Path) -> None:
    base, run_dir = write_weights(tmp_path / "base", seed=1), tmp_path / "run"
    command = ("train", f"run_dir={run_dir}", f"model.path={base}", *SETTINGS)
    first = megacpt(*command)
    assert first.returncode == 0, first.stderr
    assert "LoRA, rank 4, alpha 32: 7424 of 156.35k parameters trained (4.7 %)" in first.stdout
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["settings"]["adapter"].startswith("LoRA, rank 4")
    uninterrupted = losses(run_dir)
    last = run_dir / "checkpoints" / "step_00000004"
    assert json.loads((last / "manifest.json").read_text())["base"] == fingerprint(base)
    held = sum(file.stat().st_size for file in last.glob("*.distcp"))
    assert held < 300_000  # The base alone would be 600 kB, its state twice that.
    shutil.rmtree(last)
    again = megacpt(*command)
    assert again.returncode == 0, again.stderr
    assert losses(run_dir) == uninterrupted

    base.rename(tmp_path / "kept")
    write_weights(base, seed=2)
    for words in (command, ("evaluate", str(run_dir)), ("export", str(run_dir))):
        refused = megacpt(*words)
        assert (refused.returncode, "is an adapter to other weights" in refused.stderr) == (2, True)
