# SPDX-License-Identifier: Apache-2.0
"""Which process was meant: their numbers are given again, in each container and boot anew."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19
"""Places in /proc/PID/stat after the name of the program (proc(5))."""
_DEAD = ("Z", "X")


def mark_of(pid: int) -> str | None:
    """What no other process has or will have: boot, container, number, moment of its start.

    None where there is no such process, or it is dead and only not buried, or the system is no
    Linux and cannot say.
    """
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if words[_STATE] in _DEAD:
        return None
    return f"{_here()} {pid} {words[_STARTED]}"


def lives(mark: str) -> bool | None:
    """Whether the process of that mark does; None where that cannot be seen from this one."""
    place, pid, _ = mark.rsplit(" ", 2)
    if place != _here():
        return None
    return mark_of(int(pid)) == mark


def _here() -> str:
    """Boot and pid namespace: where a number of a process means this one."""
    try:
        boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self' / 'ns' / 'pid')}"
    except OSError:
        return ""
