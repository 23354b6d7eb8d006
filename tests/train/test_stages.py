# SPDX-License-Identifier: Apache-2.0
"""Blend, sequence length and batch size change in the middle of a run, on every layout alike."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import PYTHON
from tests.train.parity import assert_same_curve, train_curves, write_run_inputs

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

LONG_FROM = 4
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}},
    2: {
        "tp2-sp": {"tp": 2, "sequence_parallel": True},
        "pp2": {"pp": 2},
        "pp2-vpp2": {"pp": 2, "vpp": 2},
        "dp2": {"dp": 2},
    },
}
NAMES = [name for layouts in LAYOUTS.values() for name in layouts if name != "single"]


def staged(work: Path, parallel: dict[str, Any], *, document_mask: bool) -> dict[str, Any]:
    """8 samples of 32 tokens a step, then 12 of 64, half of them replay, from a new source too."""
    return {
        "parallel": parallel,
        "data": {
            "document_mask": document_mask,
            "micro_batch_size": 2,
            "sources": {"late": {"prefix": str(work / "late"), "weight": 0.0}},
            "stages": {
                "long": {
                    "from_step": LONG_FROM,
                    "sources": {"domain": {"weight": 1.0}, "late": {"weight": 2.0}},
                    "replay_share": 0.5,
                    "sequence_length": 64,
                    "global_batch_size": 12,
                }
            },
        },
    }


@pytest.fixture(scope="module", params=[False, True], ids=["whole-rows", "documents"])
def curves(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("stages")
    write_run_inputs(work, tied=True)
    cases = {
        world: {
            name: staged(work, parallel, document_mask=request.param)
            for name, parallel in layouts.items()
        }
        for world, layouts in LAYOUTS.items()
    }
    return train_curves(work, cases)


@pytest.mark.parametrize("layout", NAMES)
def test_layout_equals_single_rank(layout: str, curves: dict[str, np.ndarray]) -> None:
    assert_same_curve(curves[layout], curves["single"])


def test_the_new_source_is_trained_on_from_its_stage_on(curves: dict[str, np.ndarray]) -> None:
    late = curves["single"][:, 4]
    assert bool((late[:LONG_FROM] == 0).all())
    assert bool((late[LONG_FROM:] > 1).all())


def test_records_follow_the_stages(tmp_path: Path) -> None:
    """Length, stage and what replay has come to, in metrics.jsonl; the loop does not wait long."""
    settings = [
        "experiment=tiny",
        "schedule.steps=6",
        "cluster.device=cpu",
        "monitor.wandb=disabled",
        "data.sequence_length=32",
        "data.global_batch_size=8",
        "data.replay.share=0.25",
        "data.stages.long.from_step=4",
        "data.stages.long.sequence_length=64",
        "data.stages.long.global_batch_size=4",
        "data.stages.long.replay_share=0.5",
    ]
    command = [PYTHON, "-m", "megacpt", "train", f"run_dir={tmp_path}/run", *settings]
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines[1:]]
    assert [r.get("stage") for r in records] == [None] * 4 + ["long"] * 2
    assert [r["sequence_length"] for r in records] == [32] * 4 + [64] * 2
    assert all(r["tokens"] == 256 * r["step"] for r in records)
    assert [r["replay_share"] for r in records] == [0.25] * 4 + [0.3, pytest.approx(1 / 3)]
    assert all(0 <= r["data_wait_s"] < r["step_s"] for r in records)
