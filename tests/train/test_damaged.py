# SPDX-License-Identifier: Apache-2.0
"""A run says which checkpoints are damaged, goes on from the one before them, and ends as ever.

Real runs: every kind of damage at once, so that one start meets them all; then two ranks, of which
one alone reads the damaged file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from megacpt.checkpoint import folders
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.starts import lineage
from tests.forked import PYTHON

pytestmark = [pytest.mark.mcore, pytest.mark.slow]
STEPS = 10
SETTINGS = [
    "experiment=tiny",
    f"schedule.steps={STEPS}",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=5",
    "evaluate.every_steps=100",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
]


def train(run_dir: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    words = ["train", f"run_dir={run_dir}", *SETTINGS, *changes]
    command = [PYTHON, "-m", "megacpt", *words]
    return subprocess.run(command, timeout=300, capture_output=True, text=True)


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    return [record["loss"] for record in records[1:]]


def checkpoint(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / folders.folder_name(step)


def largest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def truncate(folder: Path) -> None:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("damaged") / "undisturbed"
    done = train(run_dir)
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture
def run_dir(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def test_every_damage_is_named_and_the_newest_sound_one_is_used(
    undisturbed: Path, run_dir: Path
) -> None:
    truncate(checkpoint(run_dir, 10))
    flip_a_bit(checkpoint(run_dir, 8))
    largest(checkpoint(run_dir, 6)).unlink()
    (checkpoint(run_dir, 4) / "manifest.json").unlink()
    done = train(run_dir)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "checkpoints/step_" in line]
    expected = {10: "but was written with", 8: "its checksum differs", 6: "is missing"}
    for line, (step, reason) in zip(said, expected.items(), strict=False):
        assert line.startswith(f"passed over checkpoint {checkpoint(run_dir, step)}: ")
        assert reason in line
    assert said[3:] == [
        f"passed over checkpoint {checkpoint(run_dir, 4)}: manifest.json is missing",
        f"resumed from {checkpoint(run_dir, 2)}",
    ]
    assert losses(run_dir) == losses(undisturbed)
    assert lineage(run_dir).from_steps == {1: 0, 2: 2}
    found = folders.published(run_dir / "checkpoints", full=True)
    assert [(c.step, c.problem) for c in found] == [(n, None) for n in (10, 8, 6, 4, 2)]
    assert [CheckpointManifest.read(c.folder).start for c in found] == [2, 2, 2, 2, 1]


def test_what_one_rank_finds_all_ranks_pass_over(undisturbed: Path, run_dir: Path) -> None:
    flip_a_bit(checkpoint(run_dir, 10))
    done = train(run_dir, "parallel.dp=2")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "checkpoints/step_" in line]
    assert "its checksum differs" in said[0]
    assert said[1].startswith(f"resumed from {checkpoint(run_dir, 8)}")
    assert losses(run_dir)[:8] == losses(undisturbed)[:8]
    assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=1e-5)


def test_evaluation_and_export_say_so_too(run_dir: Path) -> None:
    flip_a_bit(checkpoint(run_dir, 10))
    for verb in ("evaluate", "export"):
        command = [PYTHON, "-m", "megacpt", verb, str(run_dir)]
        done = subprocess.run(command, timeout=300, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"passed over checkpoint {checkpoint(run_dir, 10)}: " in done.stderr
    assert json.loads((run_dir / "evaluation.json").read_text())["step"] == 8


def test_where_all_are_damaged_the_run_is_not_begun_anew(run_dir: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        flip_a_bit(checkpoint(run_dir, step))
    before = (run_dir / "metrics.jsonl").read_text()
    done = train(run_dir)
    assert done.returncode == 2
    assert "holds no checkpoint that can be used:\n  step_00000010: " in done.stderr
    assert "Bring one back from a copy; or move them away" in done.stderr
    assert (run_dir / "metrics.jsonl").read_text() == before
