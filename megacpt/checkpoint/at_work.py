# SPDX-License-Identifier: Apache-2.0
"""Whether a run is at work in its folder already, as far as one machine can see.

A process of this machine is known by what no other has (megacpt.device.processes), so that one that
has died never blocks a start. Of another machine there are only the age of its start and the last
record; the fence (megacpt.checkpoint.starts) is what keeps two apart.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from megacpt.checkpoint import starts
from megacpt.checkpoint.starts import Start
from megacpt.device import processes
from megacpt.errors import EnvironmentError_
from megacpt.text import duration

RECORDS = "metrics.jsonl"


def require_ended(start: Start) -> None:
    """Refuse while the process of ``start`` lives on this machine and is not this one."""
    if start.process is None or start.process == processes.mark_of(os.getpid()):
        return
    if processes.lives(start.process):
        raise EnvironmentError_(
            f"{start.run_dir} is in use: {_known(start)} is at work there, and two at once would "
            f"end it. Let it end (Ctrl-C in its terminal or kill {start.pid}: it saves first), use "
            "another run_dir=FOLDER, or end it at its next step and go on from its newest "
            "checkpoint with --take-over."
        )


def require_free(run_dir: Path, *, silent_s: float) -> str | None:
    """The same of the newest start; what is known of one that cannot be seen from here, if it has
    shown a sign of life within ``silent_s``, after which a run ends itself."""
    start = starts.newest(run_dir)
    if start is None:
        return None
    require_ended(start)
    is_seen = start.process is not None and processes.lives(start.process) is not None
    if is_seen or time.time() - _last_sign(start) > silent_s:
        return None
    return (
        f"{_known(start)} cannot be seen from here. If it is still at work, this start ends it at "
        "its next step and goes on from its newest checkpoint."
    )


def _known(start: Start) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(start.time))
    silent = duration(max(0.0, time.time() - _last_sign(start)))
    return f"start {start.number} ({start.who}, since {since}, last sign of life {silent} ago)"


def _last_sign(start: Start) -> float:
    """Its last record, or its start where it has none."""
    path = start.run_dir / RECORDS
    return max(start.time, path.stat().st_mtime if path.exists() else 0.0)
