# SPDX-License-Identifier: Apache-2.0
"""Requests to a running run, agreed between all ranks once a step.

A signal may reach one rank and not another, and only the first looks at the clock, at the file
RUN_DIR/request and at the fence. One small all_reduce makes one decision of it, so that no rank
saves or ends alone. The same message says whether a save is still being written anywhere.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from megacpt.device import environment

logger = logging.getLogger(__name__)

SPARE_S = 30.0
"""Added to the time that saving before the end of the time limit may take."""
LONGEST_TIMES = 3.0


class Request(IntEnum):
    """An action after the step; a stronger wish has a higher number."""

    none = 0
    save = 1
    save_and_exit = 2
    time_limit = 3
    usr1 = 4
    interrupt = 5
    term = 6
    stop = 7
    superseded = 8

    @property
    def saves(self) -> bool:
        return Request.none < self < Request.stop

    @property
    def exits(self) -> bool:
        return Request.save < self < Request.superseded

    @property
    def reason(self) -> str:
        """Who has asked."""
        return {
            Request.time_limit: "the time limit is near",
            Request.usr1: "SIGUSR1 came",
            Request.interrupt: "Ctrl-C was pressed",
            Request.term: "SIGTERM came",
        }.get(self, f"the file `request` said {self.name}")


SIGNALS = {
    signal.SIGUSR1: Request.usr1,
    signal.SIGINT: Request.interrupt,
    signal.SIGTERM: Request.term,
}
WORDS = {r.name: r for r in (Request.save, Request.save_and_exit, Request.stop)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer for all ranks."""

    request: Request
    is_writing: bool
    """Some rank still writes its share of a checkpoint."""


@dataclass(slots=True, kw_only=True)
class TimeLimit:
    """When to save and end so that the time left is enough for it."""

    ends_at: float | None
    """Seconds since 1970; None: no limit is known."""
    margin_s: float
    """``checkpoint.save_before_end_s``; 0: from what steps and saves have taken."""
    longest_step_s: float = 0.0
    """Measurements and saves after it included."""
    last_save_s: float = 0.0

    def is_near(self, *, now: float) -> bool:
        longest_s = max(self.longest_step_s, self.last_save_s)
        margin_s = self.margin_s or LONGEST_TIMES * longest_s + SPARE_S
        return self.ends_at is not None and now + margin_s >= self.ends_at

    def count_step(self, seconds: float) -> None:
        self.longest_step_s = max(self.longest_step_s, seconds)

    def count_save(self, seconds: float) -> None:
        self.last_save_s = seconds


@dataclass(slots=True, kw_only=True)
class Requests:
    """A context manager: while it is open, its signals are requests and end no rank."""

    file: Path
    time_limit: TimeLimit
    device: torch.device
    when_asked: Callable[[], None] = lambda: None
    """Called at once when a signal comes, from its handler."""
    _signal: Request = Request.none
    _before: dict[int, Any] = field(default_factory=dict)
    _warned_of: str = ""

    def __enter__(self) -> Requests:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """A rank that waits in a collective gets here after the step."""
        self._signal = max(self._signal, SIGNALS[signal.Signals(number)])
        self.when_asked()

    def agree(self, *, is_held: Callable[[], bool], is_writing: bool) -> Decision:
        """One decision of all ranks; a collective call. The file is removed when it is obeyed.

        ``is_held``: whether this start still holds the fence. ``is_writing``: whether this rank
        still writes its share of a checkpoint.
        """
        is_first = torch.distributed.get_rank() == 0
        own = self._signal
        if is_first:
            own = max(own, self._seen() if is_held() else Request.superseded)
        wishes = torch.tensor([own, is_writing], dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        request, writing = wishes.tolist()
        decision = Decision(request=Request(request), is_writing=bool(writing))
        if is_first and decision.request in WORDS.values():
            self.file.unlink(missing_ok=True)
        return decision

    def _seen(self) -> Request:
        near = self.time_limit.is_near(now=time.time())
        return max(Request.time_limit if near else Request.none, self._asked_by_file())

    def _asked_by_file(self) -> Request:
        word = ""
        with contextlib.suppress(OSError):
            word = self.file.read_text(encoding="utf-8", errors="replace").strip()
        if word and word not in WORDS and word != self._warned_of:
            self._warned_of = word
            logger.warning("%s: %r is none of %s; ignored", self.file, word, ", ".join(WORDS))
        return WORDS.get(word, Request.none)


def time_limit(limit_minutes: float, *, margin_s: float) -> TimeLimit:
    """The limit of this process: the configured one (0: none), or the job's."""
    end = ends_at(
        started_at=environment.STARTED_AT,
        limit_minutes=limit_minutes,
        job_ends_at=environment.job_ends_at(),
    )
    return TimeLimit(ends_at=end, margin_s=margin_s)


def ends_at(*, started_at: float, limit_minutes: float, job_ends_at: float | None) -> float | None:
    """The earlier of the configured limit, 0 being none, and that of the job."""
    own = started_at + 60 * limit_minutes if limit_minutes > 0 else None
    return min((end for end in (own, job_ends_at) if end is not None), default=None)
