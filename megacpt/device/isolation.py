# SPDX-License-Identifier: Apache-2.0
"""A process for code that nobody has read: no network, no files to change, little time and memory.

Linux's own means, without root: namespaces of its own of users, mounts, processes, network and
shared memory (user_namespaces(7)), all file systems read-only (mount_setattr(2), Linux 5.12) but
an empty folder in memory, no capabilities, and resource limits. What the user can read it can read,
too; it has nobody to tell.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from megacpt.device.environment import die_with_parent
from megacpt.errors import EnvironmentError_

SCRATCH = "/tmp"
_IN_MEMORY = {"/proc": "size=1m", "/dev/shm": "size=16m", SCRATCH: "size=64m,mode=1777"}
"""Folders that are empty there. Of these /proc would show other processes' variables."""
_INNER_ID = 1000
"""The user it is there: not root, which would get its capabilities back with every program."""
_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000
"""CLONE_NEWUSER, NEWNS, NEWPID, NEWNET and NEWIPC of linux/sched.h."""
_MS_PRIVATE_RECURSIVE = 0x40000 | 0x4000
_MS_NOSUID_NODEV = 0x2 | 0x4
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    wall_s: float
    memory_bytes: int
    """Beyond what the process has when it begins."""
    file_bytes: int = 2**24
    processes: int = 64
    reply_bytes: int = 2**16


class Ended(Exception):
    """The process gave no answer; the message says why."""


def isolated(work: Callable[[], Any], *, limits: Limits) -> Any:
    """What ``work`` returns, as JSON holds it, from a fork of this process, which has no threads.

    ``Ended``: it took too long or too much, ended itself, or returned something else.
    ``EnvironmentError_``: this machine has not the means.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _outer(work, limits=limits, writing=writing)
    os.close(writing)
    try:
        said = _read(reading, limits=limits)
    finally:
        # The first process of its namespace ends with this one, and all others there with it.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
    return _answer(said)


def require_isolation() -> None:
    """``EnvironmentError_`` where ``isolated`` would raise it; from any process, also one with
    threads."""
    words = [sys.executable, "-m", "megacpt.device.isolation"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or ["it ended"]
        raise EnvironmentError_(lines[-1])


def _try() -> int:
    try:
        isolated(dict, limits=Limits(wall_s=60, memory_bytes=2**28))
    except (EnvironmentError_, Ended) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _read(reading: int, *, limits: Limits) -> bytes:
    ends_at, said = time.monotonic() + limits.wall_s, b""
    while len(said) <= limits.reply_bytes:
        left_s = ends_at - time.monotonic()
        if left_s <= 0 or not select.select([reading], [], [], left_s)[0]:
            raise Ended(f"it took longer than {limits.wall_s:g} s")
        part = os.read(reading, limits.reply_bytes)
        if not part:
            return said
        said += part
    raise Ended(f"its answer is longer than {limits.reply_bytes:,} bytes")


def _answer(said: bytes) -> Any:
    try:
        kind, value = json.loads(said)
    except ValueError as error:
        raise Ended("it ended without an answer") from error
    if kind == "cannot":
        raise EnvironmentError_(
            f"this machine has no means to keep a process apart ({value}): Linux 5.12 or newer "
            "and user namespaces are needed, which many containers forbid; run it on a node, or in "
            "a container that allows them."
        )
    if kind != "made":
        raise Ended(str(value))
    return value


def _outer(work: Callable[[], Any], *, limits: Limits, writing: int) -> NoReturn:
    """Takes namespaces; the first process inside is its child. Never returns into the code of the
    process it was forked from, whatever happens."""
    code = 1
    try:
        held_bytes = _held_bytes()  # While there is a /proc to ask.
        _own_namespaces()
        _own_files()
        die_with_parent()  # Only now: new namespaces are new credentials, which forget it.
        inner = os.fork()
        if inner == 0:
            _inner(work, limits=limits, held_bytes=held_bytes, writing=writing)
        os.close(writing)
        os.waitpid(inner, 0)
        code = 0
    except OSError as error:
        _say(writing, kind="cannot", value=str(error))
    finally:
        os._exit(code)


def _inner(work: Callable[[], Any], *, limits: Limits, held_bytes: int, writing: int) -> NoReturn:
    code = 1
    try:
        # A signal from outside its namespace reaches it all the same.
        die_with_parent()
        _without_files(writing)
        _limit(limits, held_bytes=held_bytes)
        _without_capabilities()
        os.environ.clear()
        os.environ.update({"PATH": "/usr/bin:/bin", "HOME": SCRATCH, "TMPDIR": SCRATCH})
        os.chdir(SCRATCH)
        _say(writing, kind="made", value=work())
        code = 0
    except BaseException as error:  # noqa: BLE001 - nobody else would tell, and it ends here
        _say(writing, kind="failed", value=f"{type(error).__name__}: {str(error)[:500]}")
    finally:
        os._exit(code)


def _say(writing: int, *, kind: str, value: Any) -> None:
    os.write(writing, json.dumps([kind, value]).encode())


def _own_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    _libc("unshare", _NAMESPACES)
    for name, text in {
        "setgroups": "deny",
        "uid_map": f"{_INNER_ID} {user} 1",
        "gid_map": f"{_INNER_ID} {group} 1",
    }.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _own_files() -> None:
    """Nothing can be written but in memory."""
    _libc("mount", None, b"/", None, _MS_PRIVATE_RECURSIVE, None)
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    _libc(
        *("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE),
        *(attributes, ctypes.c_size_t(len(attributes))),
    )
    for folder, options in _IN_MEMORY.items():
        if os.path.isdir(folder):
            _libc(
                *("mount", b"tmpfs", folder.encode(), b"tmpfs", _MS_NOSUID_NODEV),
                options.encode(),
            )


def _without_files(kept: int) -> None:
    """No file that is open where it was forked, such as the pipe on which scores are told."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _limit(limits: Limits, *, held_bytes: int) -> None:
    for what, most in {
        resource.RLIMIT_AS: held_bytes + limits.memory_bytes,
        resource.RLIMIT_CPU: int(limits.wall_s) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(what, (most, most))


def _without_capabilities() -> None:
    number = 0
    while True:
        try:
            _libc("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # The last one that this kernel knows was before.
        number += 1
    _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _libc("capset", header, struct.pack("=6I", *[0] * 6))


def _held_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _libc(name: str, *arguments: Any) -> None:
    """A call that returns -1 where it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(_try())
