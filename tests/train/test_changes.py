# SPDX-License-Identifier: Apache-2.0
"""What a resumed run may change: blend, batch size, layout from here on; not what was trained."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import PYTHON

SETTINGS = [
    "experiment=tiny",
    "schedule.steps=12",
    "checkpoint.every_steps=6",
    "evaluate.every_steps=12",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
    "evaluate.prompts=null",
    "data.micro_batch_size=4",
]
NEW_SOURCE = ["data.sources.herbs.synthetic.documents=50", "data.sources.herbs.weight=0"]
NEW_STAGE = ["data.stages.short.from_step=9", "data.stages.short.sources.herbs.weight=1"]
ROUNDING = 1e-5
"""Sums over one or two ranks, in fp32 (as in test_train_parity.py)."""

pytestmark = [pytest.mark.mcore, pytest.mark.slow]


def train(run_dir: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    words = ["train", f"run_dir={run_dir}", *SETTINGS, *changes]
    command = [PYTHON, "-m", "megacpt", *words]
    return subprocess.run(command, timeout=300, capture_output=True, text=True)


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["step"] > 0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run") / "undisturbed"
    assert train(run_dir).returncode == 0
    return run_dir


@pytest.fixture
def halfway(undisturbed: Path, tmp_path: Path) -> Path:
    """The same run as a death after its checkpoint of step 6 leaves it."""
    run_dir = tmp_path / "halfway"
    shutil.copytree(undisturbed, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "step_00000012")
    (run_dir / "checkpoints" / "latest").write_text("step_00000006")
    return run_dir


@pytest.mark.parametrize(
    "layout",
    [
        ["parallel.dp=2", "parallel.distributed_optimizer=true"],
        ["parallel.tp=2", "parallel.sequence_parallel=true"],
    ],
    ids=["dp2-zero1", "tp2-sp"],
)
def test_another_layout_goes_on_with_the_same_curve(
    undisturbed: Path, halfway: Path, layout: list[str]
) -> None:
    done = train(halfway, *layout)
    assert done.returncode == 0, done.stderr
    losses = [[r["loss"] for r in records(folder)] for folder in (halfway, undisturbed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=ROUNDING)
    assert (
        records(halfway)[-1]["samples_per_source"] == records(undisturbed)[-1]["samples_per_source"]
    )


def test_new_batch_size_source_and_stage_begin_with_the_next_step(
    undisturbed: Path, halfway: Path
) -> None:
    changes = [*NEW_SOURCE, *NEW_STAGE, "data.stages.short.sequence_length=32"]
    done = train(halfway, "data.global_batch_size=16", *changes)
    assert done.returncode == 0, done.stderr
    was, now = records(undisturbed), records(halfway)
    assert [r["loss"] for r in now[:6]] == [r["loss"] for r in was[:6]]
    assert now[5]["samples_per_source"] == {"plant": 24, "garden": 12, "kitchen": 12}
    three_of_16 = {"plant": 48, "garden": 24, "kitchen": 24, "herbs": 0}
    assert now[8]["samples_per_source"] == three_of_16
    in_stage = {"plant": 48, "garden": 24, "kitchen": 36, "herbs": 36}
    assert now[11]["samples_per_source"] == in_stage
    assert [r["sequence_length"] for r in now] == [64] * 9 + [32] * 3
    assert now[11]["tokens"] == 6 * 8 * 64 + 3 * 16 * 64 + 3 * 16 * 32
    assert [r["replay_share"] for r in now] == [0.25] * 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["data.stages.early.from_step=3", "data.stages.early.replay_share=0.5"],
            "data.stages.early=from step 3 differs from what was trained",
        ),
        (["data.sources.herbs.synthetic.documents=50"], "past stages may not be edited"),
        (
            ["data.stages.long.from_step=9", "data.stages.long.sequence_length=128"],
            "does not divide the 64 tokens that are shuffled as one piece",
        ),
    ],
)
def test_what_was_trained_cannot_be_edited(halfway: Path, changes: list[str], message: str) -> None:
    before = (halfway / "run.yaml").read_text()
    refused = train(halfway, *changes)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (halfway / "run.yaml").read_text() == before
