# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, then the same command: the same losses and weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import PYTHON

KILLS = 2
SETTINGS = [
    "experiment=tiny",
    "schedule.steps=16",
    "checkpoint.every_steps=3",
    "cluster.device=cpu",
]


def train_command(run_dir: Path, extra: list[str]) -> list[str]:
    return [PYTHON, "-m", "megacpt", "train", f"run_dir={run_dir}", *SETTINGS, *extra]


def start(run_dir: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that one signal reaches the launcher and every rank."""
    return subprocess.Popen(train_command(run_dir, extra), start_new_session=True)


def kill_somewhere(run_dir: Path, extra: list[str], *, rng: random.Random) -> None:
    """Start the run and SIGKILL all of it some way into training."""
    process = start(run_dir, extra)
    deadline = time.monotonic() + 120
    log = run_dir / "metrics.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(log.read_text().splitlines()) > before:
            break
        time.sleep(0.02)
    time.sleep(rng.uniform(0.0, 1.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def losses(run_dir: Path) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records]
    assert steps == list(range(len(steps))), "each step is in the log exactly once"
    return [r["loss"] for r in records[1:]]


@pytest.mark.mcore
@pytest.mark.slow
def test_killed_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """By the verb itself; one rank in fp32, killed far more often: test_train_kills.py."""
    extra = ["parallel.dp=2", "parallel.distributed_optimizer=true", "precision=bf16"]
    extra += ["optim.embedding_lr_multiplier=4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, extra).wait(timeout=300) == 0
    rng = random.Random(time.time_ns())
    for _ in range(KILLS):
        kill_somewhere(broken, extra, rng=rng)
    assert start(broken, extra).wait(timeout=300) == 0
    assert losses(broken) == losses(whole)
    for run_dir in (whole, broken):
        command = [PYTHON, "-m", "megacpt", "export", str(run_dir)]
        subprocess.run(command, check=True, timeout=120)
    expected = load_file(whole / "hf" / "model.safetensors")
    found = load_file(broken / "hf" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor.view(torch.uint8), found[name].view(torch.uint8)), name
