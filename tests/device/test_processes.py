# SPDX-License-Identifier: Apache-2.0
"""A process is told from every other one, dead ones and those of other machines too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from megacpt.device.processes import lives, mark_of


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_process_lives_until_it_dies(sleeper: subprocess.Popen[bytes]) -> None:
    mark = mark_of(sleeper.pid)
    assert mark is not None
    assert lives(mark) is True
    sleeper.send_signal(signal.SIGSTOP)
    assert lives(mark) is True
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert lives(mark) is False, "a zombie"
    sleeper.wait()
    assert lives(mark) is False
    assert mark_of(sleeper.pid) is None


def test_a_number_given_again_is_another_process() -> None:
    mark = mark_of(os.getpid())
    assert mark is not None
    place, pid, started = mark.rsplit(" ", 2)
    assert lives(f"{place} {pid} {int(started) - 1}") is False


@pytest.mark.parametrize("place", ["another-boot pid:[1]", "{boot} pid:[1]", ""])
def test_of_another_boot_or_container_nothing_is_known(place: str) -> None:
    mark = mark_of(os.getpid())
    assert mark is not None
    boot, _, pid, started = mark.split(" ")
    assert lives(f"{place.format(boot=boot)} {pid} {started}") is None
