# SPDX-License-Identifier: Apache-2.0
"""The starts of one run, numbered, so that a newer one can be told from an older still alive.

    RUN_DIR/starts/000001.json

A start claims its number by creating the file (O_EXCL) before it reads a checkpoint, and holds the
fence while no file with a higher number exists. What it found in the files below its own at that
moment goes into its own and never changes, so that an older start, awake again, cannot rewrite the
run's past: the newest file alone says which step each start went on from.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from megacpt.errors import EnvironmentError_, Superseded
from megacpt.files import sync, write_text

FOLDER = "starts"
CLAIMING_S, CLAIMING_LOOK_S = 1.0, 0.05
"""How long a start that has a number may take to say whose it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a run: who it is, where it went on from, what lay before it."""

    run_dir: Path
    number: int
    host: str
    pid: int
    job: str | None
    """Slurm's job id."""
    restart: int | None
    """Slurm's SLURM_RESTART_COUNT."""
    time: float
    """Seconds since 1970."""
    from_step: int | None = None
    """Set once all ranks have loaded that step; 0 is the beginning."""
    process: str | None = None
    """What tells it from a later one of the same number (megacpt.device.processes)."""
    earlier: Mapping[int, int] = field(default_factory=dict)
    """Number -> ``from_step`` of the starts before it, as they were when it was claimed."""

    def is_held(self) -> bool:
        """No newer start has been claimed, and the run folder is still the one it was."""
        if _path(self.run_dir, number=self.number + 1).exists():
            return False
        found = _read(self.run_dir, number=self.number)
        return found is not None and found.identity == self.identity

    def require_held(self) -> None:
        """Before anything is written to the run folder."""
        if self.is_held():
            return
        newer = max(_numbers(self.run_dir), default=0)
        found = _read(self.run_dir, number=newer) if newer > self.number else None
        by = f"start {newer}" if newer > self.number else "a run started again in that folder"
        where = f" ({found.who})" if found is not None else ""
        raise Superseded(
            f"start {self.number} of {self.run_dir} ({self.who}) is superseded by {by}{where}; "
            "this one stops and writes nothing more, and must not be started again."
        )

    @property
    def identity(self) -> tuple[str, int, float]:
        return self.host, self.pid, self.time

    @property
    def who(self) -> str:
        """``node7, process 4711, job 12``."""
        job = f", job {self.job}" if self.job is not None else ""
        return f"{self.host}, process {self.pid}{job}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Start number -> the step it went on from; those that never got so far are left out."""

    from_steps: Mapping[int, int]

    def left_by(self, *, start: int, step: int) -> int | None:
        """The later start that went on from before ``step``; None: the checkpoint counts."""
        return next(
            (n for n, s in sorted(self.from_steps.items()) if n > start and s < step),
            None,
        )


def claim(
    run_dir: Path,
    *,
    host: str,
    pid: int,
    job: str | None = None,
    restart: int | None = None,
    process: str | None = None,
    require_ended: Callable[[Start], None] | None = None,
) -> Start:
    """Become the newest start of the run; every older one has lost the fence from now on.

    ``require_ended`` is asked about the start that would lose it, and may raise.
    """
    number = _create_next(run_dir, require_ended=require_ended)
    start = Start(
        run_dir=run_dir,
        number=number,
        host=host,
        pid=pid,
        job=job,
        restart=restart,
        time=time.time(),
        process=process,
        earlier=_from_steps(run_dir, below=number),
    )
    _write(start)
    return start


def record_from(start: Start, *, step: int) -> None:
    """Say that all ranks have loaded ``step``: later checkpoints of older starts count no more."""
    start.require_held()
    _write(replace(start, from_step=step))


def lineage(run_dir: Path) -> Lineage:
    """What the newest start knows of those before it, and where it went on from itself."""
    newest = max(_numbers(run_dir), default=0)
    return Lineage(from_steps=_from_steps(run_dir, below=newest + 1))


def read_starts(run_dir: Path) -> list[Start]:
    """All of them, oldest first; one that died while it claimed has left no more than a number."""
    found = (_read(run_dir, number=number) for number in sorted(_numbers(run_dir)))
    return [start for start in found if start is not None]


def newest(run_dir: Path) -> Start | None:
    """None where there is none, or it died while it claimed."""
    number = max(_numbers(run_dir), default=0)
    start = _read(run_dir, number=number)
    tries = CLAIMING_S / CLAIMING_LOOK_S if number else 0
    while start is None and tries > 0:
        # It may be claiming just now.
        time.sleep(CLAIMING_LOOK_S)
        start, tries = _read(run_dir, number=number), tries - 1
    return start


def _create_next(run_dir: Path, *, require_ended: Callable[[Start], None] | None) -> int:
    try:
        (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        number = 0
        # Another that is faster takes the number, and is asked about in its turn.
        while not number or not _create(_path(run_dir, number=number)):
            number = max(_numbers(run_dir), default=0) + 1
            before = newest(run_dir) if require_ended else None
            if before is not None and require_ended:
                require_ended(before)
        sync(run_dir / FOLDER)
    except OSError as error:
        raise EnvironmentError_(
            f"{run_dir / FOLDER} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space."
        ) from error
    return number


def _create(path: Path) -> bool:
    """False where another start was faster."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def _numbers(run_dir: Path) -> list[int]:
    return [int(p.stem) for p in (run_dir / FOLDER).glob("*.json") if p.stem.isdigit()]


def _path(run_dir: Path, *, number: int) -> Path:
    return run_dir / FOLDER / f"{number:06d}.json"


def _from_steps(run_dir: Path, *, below: int) -> dict[int, int]:
    """By the newest readable file: lower ones may have been written to after it was claimed."""
    for number in sorted(_numbers(run_dir), reverse=True):
        start = _read(run_dir, number=number) if number < below else None
        if start is not None:
            own = {} if start.from_step is None else {number: start.from_step}
            return {**start.earlier, **own}
    return {}


def _write(start: Start) -> None:
    record: dict[str, Any] = {"start": start.number, **asdict(start)}
    del record["run_dir"], record["number"]
    if start.process is None:
        del record["process"]
    write_text(_path(start.run_dir, number=start.number), text=json.dumps(record) + "\n")


def _read(run_dir: Path, *, number: int) -> Start | None:
    """None where there is no such start, or it died before it could write into its file."""
    try:
        record = json.loads(_path(run_dir, number=number).read_text(encoding="utf-8"))
        earlier = {int(n): int(step) for n, step in record.pop("earlier").items()}
        return Start(run_dir=run_dir, number=record.pop("start"), earlier=earlier, **record)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
