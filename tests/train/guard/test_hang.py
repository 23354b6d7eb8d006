# SPDX-License-Identifier: Apache-2.0
"""A rank that is stopped, then one that is killed: named, retried, and the same curve after all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.forked import PYTHON

SETTINGS = [
    "experiment=tiny",
    "schedule.steps=28",
    "checkpoint.every_steps=4",
    "evaluate.every_steps=28",
    "parallel.dp=2",
    "cluster.device=cpu",
    "cluster.timeout_minutes=2",
    "monitor.wandb=disabled",
    "evaluate.prompts=null",
    "data.micro_batch_size=4",
]


WATCHED = ["cluster.retries=4", "faults.hang_minutes=0.3"]
"""More retries than faults: a busy machine may look like a hang."""


def start(run_dir: Path, *more: str, python: str) -> subprocess.Popen[str]:
    command = [python, "-m", "megacpt", "train", f"run_dir={run_dir}", *SETTINGS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def steps_done(run_dir: Path) -> int:
    log = run_dir / "metrics.jsonl"
    return len(log.read_text().splitlines()) - 1 if log.exists() else -1


def newest_checkpoint(run_dir: Path) -> str:
    return max((path.name for path in (run_dir / "checkpoints").glob("step_*")), default="")


def signal_rank_1(number: signal.Signals, *, run_dir: Path, launcher: int, after: int) -> None:
    """Once ``after`` steps are done, and the present start has published a checkpoint."""
    deadline, before = time.monotonic() + 200, newest_checkpoint(run_dir)
    while steps_done(run_dir) < after or newest_checkpoint(run_dir) == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(rank_process(1, launcher=launcher), number)


def rank_process(rank: int, *, launcher: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def losses(run_dir: Path) -> list[Any]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(29))
    return [(record.get("loss"), record.get("grad_norm")) for record in records]


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_stopped_and_a_killed_rank_cost_a_retry_each_and_no_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, python=PYTHON).wait(timeout=300) == 0
    process = start(broken, *WATCHED, python=sys.executable)
    signal_rank_1(signal.SIGSTOP, run_dir=broken, launcher=process.pid, after=6)
    stopped_at = steps_done(broken)
    signal_rank_1(signal.SIGKILL, run_dir=broken, launcher=process.pid, after=stopped_at + 8)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "Likely to blame: rank 1 (process" in error
    assert "is stopped (SIGSTOP or a debugger)" in error
    assert "rank 1 was killed by SIGKILL" in error
    assert "Retry 1 of 4, from" in error
    assert "Retry 2 of 4, from" in error
    stacks = (broken / "logs" / "rank_0.stacks.before_retry_1.txt").read_text()
    assert stacks.startswith("No sign of life for 1")
    assert "megacpt/train/loop.py" in stacks
    assert losses(broken) == losses(whole)
