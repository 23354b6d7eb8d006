# SPDX-License-Identifier: Apache-2.0
"""What a process kept apart can do, and what it cannot."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megacpt.device.isolation import SCRATCH, Ended, Limits, isolated, require_isolation
from megacpt.errors import EnvironmentError_

LIMITS = Limits(wall_s=20.0, memory_bytes=2**28, reply_bytes=2**12)
SHORT = Limits(wall_s=0.5, memory_bytes=2**28)


def can() -> bool:
    try:
        require_isolation()
    except EnvironmentError_:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not can(), reason="no user namespaces here"),
    # A worker of pytest has a thread, which is in none of the locks that these forks take.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def apart(work: Callable[[], Any], *, limits: Limits = LIMITS) -> Any:
    return isolated(work, limits=limits)


def code_of(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def is_running(words: str) -> bool:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return words in listed.stdout.splitlines()


def test_an_answer_comes_back_as_json_holds_it() -> None:
    assert apart(lambda: {"a": (1, 2.5), "b": None}) == {"a": [1, 2.5], "b": None}


def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    here = Path(os.__file__).with_name("mine")

    def work() -> list[object]:
        Path("mine").write_text("x")
        return [
            *(Path("mine").read_text(), os.getcwd(), os.listdir(SCRATCH), tmp_path.exists()),
            code_of(partial(here.write_text, "x")),
        ]

    is_hidden = tmp_path.is_relative_to(SCRATCH)
    assert apart(work) == ["x", SCRATCH, ["mine"], not is_hidden, "EROFS"]
    assert not here.exists()
    assert not Path(SCRATCH, "mine").exists()


def test_what_lies_outside_can_be_read() -> None:
    assert apart(lambda: len(Path(os.__file__).read_text())) == len(Path(os.__file__).read_text())


def test_no_file_is_open_but_the_one_it_answers_on() -> None:
    reading, writing = os.pipe()

    def work() -> list[object]:
        said = code_of(partial(os.write, writing, b"x"))
        return [said, os.read(0, 1).decode(), os.fstat(1).st_rdev == os.fstat(0).st_rdev]

    try:
        assert apart(work) == ["EBADF", "", True]
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    finally:
        os.close(reading)
        os.close(writing)


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def connect() -> None:
            socket.create_connection(address, timeout=5).close()

        assert code_of(connect) == "done"
        assert apart(lambda: code_of(connect)) == "ENETUNREACH"


def test_other_processes_and_their_variables_are_not_seen() -> None:
    parent = os.getpid()

    def work() -> list[object]:
        return [code_of(partial(os.kill, parent, 0)), os.listdir("/proc"), sorted(os.environ)]

    assert apart(work) == ["ESRCH", [], ["HOME", "PATH", "TMPDIR"]]


def test_it_is_nobody_and_cannot_mount() -> None:
    def work() -> list[object]:
        libc = ctypes.CDLL(None, use_errno=True)
        made = libc.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None)
        return [os.geteuid(), made, errno.errorcode[ctypes.get_errno()]]

    assert apart(work) == [1000, -1, "EPERM"]


def test_time_is_bounded_for_all_it_has_started() -> None:
    def work() -> None:
        subprocess.Popen(["sleep", "77.25"])
        time.sleep(60)

    started_at = time.monotonic()
    with pytest.raises(Ended, match=r"longer than 0\.5 s"):
        apart(work, limits=SHORT)
    assert time.monotonic() - started_at < 20
    # Killed they are at once, and gone when the kernel has come to each.
    while time.monotonic() - started_at < 20 and is_running("sleep 77.25"):
        time.sleep(0.05)
    assert not is_running("sleep 77.25")


def test_it_does_not_outlive_who_asks() -> None:
    program = (
        "import subprocess; from megacpt.device.isolation import Limits, isolated;"
        "work = lambda: subprocess.run(['sleep', '78.25']);"
        "isolated(work, limits=Limits(wall_s=60, memory_bytes=2**28))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as asking:
        started_at = time.monotonic()
        while not is_running("sleep 78.25"):
            assert time.monotonic() - started_at < 30
            time.sleep(0.05)
        asking.kill()
    while time.monotonic() - started_at < 60 and is_running("sleep 78.25"):
        time.sleep(0.05)
    assert not is_running("sleep 78.25")


def test_memory_is_bounded() -> None:
    assert apart(lambda: len(bytearray(2**20))) == 2**20
    with pytest.raises(Ended, match="MemoryError"):
        apart(lambda: len(bytearray(2**29)))


def test_what_ends_is_told() -> None:
    with pytest.raises(Ended, match="without an answer"):
        apart(lambda: os._exit(0))
    with pytest.raises(Ended, match="ValueError: mine"):
        apart(lambda: (_ for _ in ()).throw(ValueError("mine")))
    with pytest.raises(Ended, match="not JSON serializable"):
        apart(object)
    with pytest.raises(Ended, match="longer than 4,096 bytes"):
        apart(lambda: "x" * 5000)
