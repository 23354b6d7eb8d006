# SPDX-License-Identifier: Apache-2.0
"""Ranks that a test starts end with it, whatever happens to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run_on_ranks import run_on_ranks

HERE = "tests.test_run_on_ranks"


def note_place(work: Path, cases: list[str]) -> None:
    (work / f"{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").write_text(",".join(cases))


def fail_or_wait(work: Path, failing: str) -> None:
    """Rank 0 waits, with a process of its own; the other one fails once both are there."""
    if os.environ["RANK"] == "0":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (work / "pids").write_text(f"{os.getpid()} {child.pid}")
        child.wait()
    while failing and not (work / "pids").exists():
        time.sleep(0.02)
    assert not failing


def is_running(pid: int) -> bool:
    """A killed process stays as a zombie until whoever inherited it looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_rank_gets_its_place_and_the_cases(tmp_path: Path) -> None:
    run_on_ranks(f"{HERE}:note_place", tmp_path, world=2, cases=["a", "b"])
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"0-of-2": "a,b", "1-of-2": "a,b"}


@pytest.mark.parametrize(
    ("failing", "world", "timeout_s", "message"),
    [("yes", 2, 60.0, r"ranks: \[None, 1\]"), ("", 1, 10.0, "still run after 10 s")],
    ids=["failure", "timeout"],
)
def test_none_outlives_a_failure_or_the_time(
    failing: str, world: int, timeout_s: float, message: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match=message):
        run_on_ranks(
            f"{HERE}:fail_or_wait", tmp_path, world=world, cases=failing, timeout_s=timeout_s
        )
    assert time.monotonic() - started < 60
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    stop_at = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < stop_at:
        time.sleep(0.02)
    assert not any(map(is_running, pids))
