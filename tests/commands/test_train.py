# SPDX-License-Identifier: Apache-2.0
"""``megacpt train`` with real ranks: torchrun, Ctrl-C, and a rank that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "megacpt"]
LONG = ["experiment=tiny", "monitor=quiet", "schedule.steps=100000", "evaluate.every_steps=100000"]


def wait_until(condition: Callable[[], object], *, timeout_s: float) -> None:
    stop_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop_at, "waited in vain"
        time.sleep(0.05)


def workers_of(run_dir: Path) -> dict[int, int]:
    """Rank -> process id of the workers of a run."""
    ranks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"megacpt.train.rank" in words and str(run_dir).encode() in words:
            rank = next(v for v in variables if v.startswith(b"RANK="))
            ranks[int(process.name)] = int(rank.removeprefix(b"RANK="))
            parents[int(process.name)] = int(parent)
    # A worker's own child writes its checkpoints.
    return {rank: pid for pid, rank in ranks.items() if parents[pid] not in ranks}


def start_long_run(run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    """A run that has begun to train."""
    process = subprocess.Popen(
        [*COMMAND, "train", *LONG, f"run_dir={run_dir}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = run_dir / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 1000, timeout_s=120)
    return process


def test_ctrl_c_ends_all_ranks_with_one_line(tmp_path: Path) -> None:
    process = start_long_run(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("Interrupted. Start it again to go on: megacpt train ")
    assert "Traceback" not in error
    assert not workers_of(tmp_path / "run")


def test_a_killed_rank_ends_the_run_within_seconds(tmp_path: Path) -> None:
    process = start_long_run(tmp_path / "run", "parallel.dp=2")
    os.kill(workers_of(tmp_path / "run")[1], signal.SIGKILL)
    killed_at = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - killed_at < 10
    assert process.returncode == 75
    assert error.count("rank 1 was killed by SIGKILL") == 1
    assert "Traceback" not in error
    assert not workers_of(tmp_path / "run")


def test_a_killed_launcher_leaves_no_rank(tmp_path: Path) -> None:
    process = start_long_run(tmp_path / "run", "parallel.dp=2")
    process.kill()
    wait_until(lambda: not workers_of(tmp_path / "run"), timeout_s=10)
    process.communicate(timeout=30)


@pytest.mark.parametrize("length", ["schedule.steps=2", "schedule.tokens=1_000"])
def test_torchrun_starts_the_ranks(tmp_path: Path, length: str) -> None:
    settings = ["experiment=tiny", "monitor=quiet", length, "schedule.warmup_steps=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    words = ["megacpt", "train", *settings, "parallel.dp=2", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Next: megacpt evaluate") == 1
    assert "Trained 2 steps:" in ended.stdout
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
