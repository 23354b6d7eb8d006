# SPDX-License-Identifier: Apache-2.0
"""``megacpt train`` with real ranks: torchrun, Ctrl-C, and a rank that is killed."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megacpt.cluster.local import SAVES

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "megacpt"]
LONG = [
    *("experiment=tiny", "monitor=quiet", "schedule.steps=100000"),
    *("evaluate.every_steps=100000", "evaluate.prompts=null"),
]

CALM = "faults.spike=ignore"


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


def in_a_terminal(
    run_dir: Path, *overrides: str, ready: Callable[[], object]
) -> tuple[subprocess.Popen[bytes], int]:
    """In the foreground of a terminal of its own, and the end to type at."""
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*COMMAND, "train", *LONG, "checkpoint.every_steps=1000", f"run_dir={run_dir}", *overrides],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
    )
    os.close(theirs)

    def read_and_look() -> object:
        # A terminal that nobody reads holds some kilobytes; then whoever draws a bar waits.
        while select.select([ours], [], [], 0)[0]:
            os.read(ours, 4096)
        return ready()

    wait_until(read_and_look, timeout_s=120)
    return process, ours


def read_until(terminal: int, words: str | None = None) -> str:
    """What comes, until some words; None: until all of its processes have ended."""
    said = b""
    while words is None or words.encode() not in said:
        try:
            said += os.read(terminal, 4096)
        except OSError:
            break
    return said.decode(errors="replace")


@pytest.mark.parametrize("overrides", [(), ("parallel.dp=2",)], ids=["one", "two"])
def test_ctrl_c_in_a_terminal_saves_and_says_so_at_once(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    process, terminal = in_a_terminal(
        tmp_path / "run",
        *overrides,
        ready=lambda: metrics.exists() and metrics.stat().st_size > 999,
    )
    os.write(terminal, b"\x03")
    pressed_at = time.monotonic()
    assert SAVES in read_until(terminal, SAVES)
    assert time.monotonic() - pressed_at < 5
    end = read_until(terminal).splitlines()
    assert process.wait(timeout=30) == 130
    steps = len(metrics.read_text().splitlines()) - 1
    assert f"Ended after step {steps} of 100000, saved, because Ctrl-C was pressed." in end[-2]
    assert end[-1].startswith("Interrupted. Start it again to go on: megacpt train ")
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")]
    assert saved == [f"step_{steps:08d}"]
    assert not workers_of(tmp_path / "run")


def test_ctrl_c_while_it_starts_ends_at_once(tmp_path: Path) -> None:
    process, terminal = in_a_terminal(
        tmp_path / "run", ready=lambda: (tmp_path / "run" / "starts").exists()
    )
    os.write(terminal, b"\x03")
    pressed_at = time.monotonic()
    said = read_until(terminal).splitlines()
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - pressed_at < 20
    assert "Interrupted. Start it again to go on: megacpt train " in said[-1]
    assert not [line for line in said if "Traceback" in line or SAVES in line]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = start_long_run(tmp_path / "run", "checkpoint.every_steps=1000")
    (rank,) = workers_of(tmp_path / "run").values()
    os.kill(rank, signal.SIGSTOP)  # it cannot save
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130
    said, end = error.splitlines()[-2:]
    assert said == SAVES
    assert end.startswith("Interrupted. Start it again to go on: ")
    assert not workers_of(tmp_path / "run")


def test_ctrl_c_ends_all_ranks_with_one_line(tmp_path: Path) -> None:
    process = start_long_run(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("Interrupted. Start it again to go on: megacpt train ")
    assert "Traceback" not in error
    assert not workers_of(tmp_path / "run")


def test_a_second_start_is_refused_and_one_that_takes_over_is_not(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = start_long_run(run_dir, CALM)
    (rank,) = workers_of(run_dir).values()
    before = (run_dir / "run.yaml").read_bytes()
    words = [*COMMAND, "train", *LONG, CALM, f"run_dir={run_dir}"]
    second = subprocess.run(
        [*words, "checkpoint.keep_last=9"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert second.stderr.startswith(f"Error: {run_dir} is in use: start 1 (")
    assert f", process {rank}, since " in second.stderr
    assert (run_dir / "run.yaml").read_bytes() == before
    assert first.poll() is None
    third = subprocess.Popen(
        [*words, "--take-over"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, error = first.communicate(timeout=120)
    assert first.returncode == 76
    assert "start 1 of" in error
    assert "is superseded by start 2" in error
    third.kill()
    third.communicate()
    wait_until(lambda: not workers_of(run_dir), timeout_s=10)
    fourth = start_long_run(run_dir, CALM)
    # Nothing blocks a start after a crash.
    wait_until(lambda: len(list((run_dir / "starts").iterdir())) == 3, timeout_s=60)
    fourth.kill()
    fourth.communicate()


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


def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    settings = ["experiment=tiny", "monitor=quiet", "schedule.tokens=1_000"]
    settings += ["schedule.warmup_steps=1", "evaluate.prompts=null"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    words = ["megacpt", "train", *settings, "parallel.dp=2", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Next: megacpt evaluate") == 1
    assert "Trained 2 steps:" in ended.stdout
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
