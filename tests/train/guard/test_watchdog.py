# SPDX-License-Identifier: Apache-2.0
"""A silent rank writes its stacks and ends with the code that a launcher may retry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

PRELUDE = """
import sys, time
from pathlib import Path
from megacpt.train.guard.watchdog import Stacks, Watchdog

folder = Path(sys.argv[1])
stacks = Stacks(folder / "logs" / "rank_0.stacks.txt")
stacks.dump_when_asked()

def leave(sign):
    (folder / "left").write_text(str(sign))

def watching(hang_s):
    return Watchdog(hang_s=hang_s, stacks=stacks, leave=leave)
"""


def start(folder: Path, script: str) -> subprocess.Popen[bytes]:
    code = PRELUDE + textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", code, str(folder)])


def stacks_of(folder: Path) -> str:
    return (folder / "logs" / "rank_0.stacks.txt").read_text()


def test_silence_ends_in_stacks_of_all_threads_and_a_code_to_retry(tmp_path: Path) -> None:
    script = """
    import threading
    def helper():
        time.sleep(60)
    threading.Thread(target=helper, daemon=True).start()
    def wait_for_a_peer():
        time.sleep(60)
    with watching(1.0) as watchdog:
        watchdog.beat("step 7")
        watchdog.beat()
        wait_for_a_peer()
    """
    started_at = time.monotonic()
    assert start(tmp_path, script).wait(timeout=50) == os.EX_TEMPFAIL
    assert time.monotonic() - started_at < 40
    stacks = stacks_of(tmp_path)
    assert stacks.startswith("No sign of life for 1.")
    assert "in wait_for_a_peer" in stacks
    assert "in helper" in stacks
    assert (tmp_path / "left").read_text().startswith("step 7 at ")


def test_signs_of_life_keep_a_rank_going_and_leave_no_file(tmp_path: Path) -> None:
    script = """
    with watching(3.0) as watchdog:
        for step in range(40):
            watchdog.beat(f"step {step}")
            time.sleep(0.1)
    stacks.close()
    """
    assert start(tmp_path, script).wait(timeout=60) == 0
    assert not (tmp_path / "logs" / "rank_0.stacks.txt").exists()


def test_a_rank_tells_where_it_stands_when_asked_and_goes_on(tmp_path: Path) -> None:
    script = """
    def busy():
        (folder / "ready").touch()
        while not (folder / "stop").exists():
            time.sleep(0.05)
    busy()
    """
    process = start(tmp_path, script)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGQUIT)
    while "in busy" not in stacks_of(tmp_path):
        time.sleep(0.05)
    (tmp_path / "stop").touch()
    assert process.wait(timeout=30) == 0


def test_a_stuck_interpreter_is_ended_by_a_timer_that_needs_none(tmp_path: Path) -> None:
    """Native code that never gives back Python's lock: no thread of Python can run."""
    script = """
    import ctypes
    with watching(1.0) as watchdog:
        time.sleep(0.5)  # the watchdog has set the timer
        ctypes.PyDLL(None).sleep(60)
    """
    assert start(tmp_path, script).wait(timeout=50) == 1
    assert "most recent call first" in stacks_of(tmp_path)
