# SPDX-License-Identifier: Apache-2.0
"""Write checkpoints beside training, one at a time, and tell all ranks how each ended.

``begin`` takes the snapshot and returns; each rank's files are written by a process beside it.
``finish`` waits for all ranks and lets the first one complete and publish the whole. Whatever goes
wrong on whichever rank, all of them are told the same and nobody is left waiting.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint.manifest import FileSum
from megacpt.checkpoint.writer.process import Background, Rest
from megacpt.checkpoint.writer.torch_dist import Planner, RankItems, Written, complete, write_items
from megacpt.errors import EnvironmentError_, Superseded

logger = logging.getLogger(__name__)
Publish = Callable[[Mapping[str, FileSum]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a rank's files, or the whole, could not be written; in the words of the system."""

    reason: str


Outcome = Written | Failure


class Saver:
    """One save is in flight at most. All methods are collective calls but for ``is_writing``,
    ``is_copying``, ``settle``, ``hurry`` and ``rested_s``."""

    def __init__(self, writer: Background[Outcome] | None) -> None:
        """``writer``: the process beside this rank; None: saves are waited for."""
        self._writer = writer
        self._planner = Planner()
        self._folder: Path | None = None
        self._outcome: Outcome | None = None
        """How the save in flight ended; None while it is being written."""

    def is_writing(self) -> bool:
        """Whether this rank's files are still being written."""
        return self._writer is not None and self._writer.is_running()

    def prepare(self, *, state: dict[str, Any]) -> None:
        """Plan, and have memory made ready, for states such as ``state``."""
        items = self._planner.plan(state)
        if self._writer is not None:
            with contextlib.suppress(OSError):  # The first save meets it again.
                self._writer.reserve(items.tensors)

    def begin(self, folder: Path, *, state: dict[str, Any]) -> None:
        """Snapshot ``state``, to be written into ``folder``, which exists and is empty.

        Its tensors must not change before ``settle``.
        """
        assert self._folder is None, "the last save has not been finished"
        items = self._planner.plan(state)
        self._folder = folder
        if self._writer is None:
            self._outcome = _write(None, rest=lambda: None, items=items, folder=folder)
            return
        try:
            copies = items.with_tensors(self._writer.hold(items.tensors))
            self._writer.begin(partial(_write, items=copies, folder=folder))
            self._outcome = None
        except ChildProcessError as error:  # While room was being made.
            self._outcome = self._without_writer(error)
        except OSError as error:
            self._outcome = Failure(reason=reason_of(error))

    @property
    def is_copying(self) -> bool:
        """Whether ``settle`` is still to be called."""
        return self._writer is not None and self._writer.is_copying

    def settle(self) -> None:
        """Wait until the snapshot is taken. Not a collective call."""
        if self._writer is not None:
            self._writer.settle()

    def hurry(self) -> None:
        """The save in flight, if there is one, will be waited for. Not a collective call."""
        if self._writer is not None:
            self._writer.hurry()

    @property
    def rested_s(self) -> float:
        """Seconds the last save rested on this rank, while nobody waited for it."""
        return self._writer.rested_s if self._writer is not None else 0.0

    def finish(self, publish: Publish) -> Failure | None:
        """Wait for all ranks, complete the checkpoint and ``publish`` on the first rank.

        Raises ``Superseded`` on all ranks where publishing did.
        """
        assert self._folder is not None
        folder, self._folder = self._folder, None
        outcomes = _gathered(self._outcome or self._result())
        return on_first_rank(lambda: self._complete(outcomes, folder=folder, publish=publish))

    def _result(self) -> Outcome:
        assert self._writer is not None
        try:
            return self._writer.result()
        except ChildProcessError as error:
            return self._without_writer(error)

    def _without_writer(self, error: ChildProcessError) -> Failure:
        # One that is forked now would share the model's memory, where there was too little.
        logger.warning("%s; from here on training waits for its checkpoints", error)
        self._writer = None
        return Failure(reason=str(error))

    def _complete(self, outcomes: list[Outcome], *, folder: Path, publish: Publish) -> None:
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, Failure):
                raise OSError(0, f"{outcome.reason} (rank {rank})")
        written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        assert self._planner.metadata is not None
        publish(complete(folder, metadata=self._planner.metadata, written=written))


def save_now(folder: Path, *, state: dict[str, Any]) -> None:
    """Write ``state`` and wait for it; a collective call."""
    saver = Saver(None)
    saver.begin(folder, state=state)
    if failure := saver.finish(lambda files: None):
        raise EnvironmentError_(
            f"{folder} cannot be written: {failure.reason}; free space or fix it."
        )


def on_first_rank(work: Callable[[], None]) -> Failure | None:
    """Run ``work`` there; return its failure, or raise its ``Superseded``, on all ranks."""
    ending: Failure | Superseded | None = None
    if torch.distributed.get_rank() == 0:
        try:
            work()
        except Superseded as error:
            ending = error
        except (OSError, RuntimeError, EnvironmentError_) as error:
            ending = Failure(reason=reason_of(error))
    found = [ending]
    torch.distributed.broadcast_object_list(found, src=0)
    if isinstance(found[0], Superseded):
        raise found[0]
    return found[0]


def reason_of(error: BaseException) -> str:
    """The system's own words, which torch hides behind errors of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _write(memory: mmap.mmap | None, *, rest: Rest, items: RankItems, folder: Path) -> Outcome:
    try:
        return write_items(items, folder=folder, memory=memory, rest=rest)
    except (OSError, RuntimeError) as error:
        return Failure(reason=reason_of(error))


def _gathered(outcome: Outcome) -> list[Outcome]:
    """All ranks' outcomes on the first; elsewhere nothing."""
    is_first = torch.distributed.get_rank() == 0
    outcomes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(outcome, outcomes if is_first else None)
    return outcomes if is_first else []
