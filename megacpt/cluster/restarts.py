# SPDX-License-Identifier: Apache-2.0
"""Whether a job of a run may start, counted in RUN_DIR/logs/jobs.jsonl: a broken run never loops.

Each start of a job leaves a line with the step of the newest checkpoint, and its end another. A
job that a person submits may always start. One that Slurm has put back into the queue, or that the
job before has queued, may not if too many in a row have found no newer checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacpt.errors import MegacptError


class NoProgress(MegacptError):
    """The run was started often enough without progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """A job's start, or restart, as its first node has seen it."""

    job: str
    restart: int
    nodes: str
    """Slurm's short form, as ``node[1-4]``."""
    continues: bool
    """Requeued, or queued by the job before: no person has asked for this start."""
    step: int
    """Step of the newest checkpoint; 0 without one."""
    time: float

    @property
    def id(self) -> str:
        """A requeued job keeps its number."""
        return f"{self.job}.{self.restart}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    job: str
    restart: int
    exit_code: int
    why: str
    """The first line of what was found."""
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that a run's jobs have written, oldest first."""

    starts: tuple[JobStart, ...]
    ends: tuple[JobEnd, ...]

    def start_of(self, *, job: str, restart: int) -> JobStart | None:
        of_it = [s for s in self.starts if (s.job, s.restart) == (job, restart)]
        return of_it[-1] if of_it else None

    def end_of(self, start: JobStart) -> JobEnd | None:
        """None while it runs, or where its node was lost."""
        of_it = [e for e in self.ends if (e.job, e.restart) == (start.job, start.restart)]
        return of_it[-1] if of_it else None


def history(path: Path) -> History:
    """A line that a lost node has left unfinished is passed over."""
    starts: list[JobStart] = []
    ends: list[JobEnd] = []
    for record in _records(path):
        kind = record.pop("event", None)
        if kind == "start":
            starts.append(JobStart(**record))
        elif kind == "end":
            ends.append(JobEnd(**record))
    return History(starts=tuple(starts), ends=tuple(ends))


def note_start(path: Path, *, start: JobStart) -> None:
    _append(path, record={"event": "start", **asdict(start)})


def note_end(path: Path, *, job: str, restart: int, exit_code: int, why: str) -> None:
    end = JobEnd(job=job, restart=restart, exit_code=exit_code, why=why, time=time.time())
    _append(path, record={"event": "end", **asdict(end)})


def starts_without_progress(starts: Sequence[JobStart], *, step: int) -> int:
    """How many in a row, up to the last, have found a checkpoint as new as ``step`` or newer.

    A person's start ends the count: something was fixed, or is to be tried again.
    """
    number = 0
    for start in reversed(starts):
        if start.step < step:
            break
        number += 1
        if not start.continues:
            break
    return number


def require_progress(past: Sequence[JobStart], *, start: JobStart, restarts_max: int) -> None:
    """``past``: the starts before ``start``."""
    number = starts_without_progress(past, step=start.step)
    if start.continues and number > restarts_max:
        raise NoProgress(
            f"{number} starts in a row have left no checkpoint newer than step {start.step}, and "
            f"cluster.slurm.max_restarts_without_progress={restarts_max}; find the cause with "
            "megacpt logs RUN_DIR, then submit the run again."
        )


def _append(path: Path, *, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One short write at the end of the file: nodes that write at once do not mix their lines.
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in found if isinstance(record, dict)]
