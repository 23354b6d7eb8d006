# SPDX-License-Identifier: Apache-2.0
"""A Qwen3-Next is continued by ``megacpt train`` from transformers' own weights, in several layouts
along one curve, and goes back to transformers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.forked import PYTHON
from tests.support import write_model_folder
from tests.train.parity import GRAD_NORM_RTOL, LOSS_RTOL

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

NEXT: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "mlp_only_layers": [0],
}
STEPS = 6
LAYOUTS = {
    "one": [],
    "tensor": ["parallel.tp=2", "parallel.sequence_parallel=true"],
    "stages": ["parallel.pp=2"],
}


def megacpt(*words: str) -> None:
    command = [PYTHON, "-m", "megacpt", *words]
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base model and a run of each layout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    work = tmp_path_factory.mktemp("nets")
    base = write_model_folder(work / "base", **NEXT)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    model.save_pretrained(base)
    for name, layout in LAYOUTS.items():
        megacpt(
            "train",
            "experiment=tiny",
            f"run_dir={work / name}",
            f"model.path={base}",
            "model.init=pretrained",
            f"schedule.steps={STEPS}",
            "cluster.device=cpu",
            "monitor.wandb=disabled",
            "evaluate.prompts=null",
            "data.micro_batch_size=4",
            *layout,
        )
    return work


def curve(run: Path) -> np.ndarray:
    """Loss and gradient norm of each step."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([(r["loss"], r["grad_norm"]) for r in records if r.get("grad_norm")])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
def test_every_layout_trains_the_curve_of_one_rank(layout: str, runs: Path) -> None:
    found, expected = curve(runs / layout), curve(runs / "one")
    assert len(found) == len(expected) == STEPS
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)
    assert expected[-1, 0] < expected[0, 0] - 0.5


def test_what_was_trained_is_certified_by_transformers(runs: Path) -> None:
    megacpt("export", str(runs / "tensor"))
    certificate = json.loads((runs / "tensor" / "hf" / "certificate.json").read_text())
    assert certificate["certified"]
