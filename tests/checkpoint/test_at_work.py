# SPDX-License-Identifier: Apache-2.0
"""A start is refused while another lives on this machine, never because of one that has died."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megacpt.checkpoint import starts
from megacpt.checkpoint.at_work import require_ended, require_free
from megacpt.checkpoint.starts import Start
from megacpt.device.processes import mark_of
from megacpt.errors import EnvironmentError_


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def claim(run_dir: Path, *, pid: int, mark: str | None, host: str | None = None) -> Start:
    host = host or socket.gethostname()
    return starts.claim(run_dir, host=host, pid=pid, process=mark, require_ended=require_ended)


def claim_by(process: subprocess.Popen[bytes], run_dir: Path) -> Start:
    return claim(run_dir, pid=process.pid, mark=mark_of(process.pid))


def test_a_start_that_lives_is_named(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    claim_by(other, tmp_path)
    words = (
        rf"{tmp_path} is in use: start 1 \({socket.gethostname()}, process {other.pid}, since "
        r".*, last sign of life 0:0\d ago\) is at work there.* with --take-over"
    )
    with pytest.raises(EnvironmentError_, match=words):
        require_free(tmp_path, silent_s=60)
    with pytest.raises(EnvironmentError_, match=words):
        claim(tmp_path, pid=os.getpid(), mark=mark_of(os.getpid()))
    assert len(starts.read_starts(tmp_path)) == 1, "the fence is where it was"
    assert starts.claim(tmp_path, host="here", pid=1).number == 2, "a take-over"


def test_one_that_has_died_blocks_nothing(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    claim_by(other, tmp_path)
    other.kill()
    other.wait()
    assert require_free(tmp_path, silent_s=60) is None
    assert claim(tmp_path, pid=os.getpid(), mark=mark_of(os.getpid())).number == 2


def test_a_number_given_again_blocks_nothing(tmp_path: Path) -> None:
    mark = mark_of(os.getppid())
    assert mark is not None
    claim(tmp_path, pid=os.getppid(), mark=mark + "0")
    assert require_free(tmp_path, silent_s=60) is None


def test_a_start_of_this_process_is_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path, pid=os.getpid(), mark=mark_of(os.getpid()))
    assert require_free(tmp_path, silent_s=60) is None


def test_what_is_known_of_another_machine_is_said_while_it_may_live(tmp_path: Path) -> None:
    claim(tmp_path, pid=7, mark="another-boot pid:[1] 7 7", host="node7")
    said = require_free(tmp_path, silent_s=60)
    assert said is not None
    assert said.startswith("start 1 (node7, process 7, since ")
    assert "cannot be seen from here" in said
    time.sleep(0.02)
    assert require_free(tmp_path, silent_s=0.01) is None
    (tmp_path / "metrics.jsonl").touch()
    assert require_free(tmp_path, silent_s=1) is not None, "its records go on"


def test_a_start_of_an_older_version_blocks_nothing(tmp_path: Path) -> None:
    claim(tmp_path, pid=os.getppid(), mark=None)
    assert "cannot be seen" in str(require_free(tmp_path, silent_s=60))
    assert claim(tmp_path, pid=os.getpid(), mark=mark_of(os.getpid())).number == 2


def test_of_many_at_once_one_begins(tmp_path: Path) -> None:
    """Each as a process of its own would claim, between the others' calls."""
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(8)]

    def begun(process: subprocess.Popen[bytes]) -> bool:
        try:
            claim_by(process, tmp_path)
        except EnvironmentError_:
            return False
        return True

    try:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(begun, sleepers)) == 1
    finally:
        for process in sleepers:
            process.kill()
            process.wait()
    assert len(starts.read_starts(tmp_path)) == 1


def test_a_folder_without_a_start_is_free(tmp_path: Path) -> None:
    assert require_free(tmp_path / "new", silent_s=60) is None
