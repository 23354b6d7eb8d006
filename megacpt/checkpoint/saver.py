# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints beside training, one at a time, and says of each on all ranks how it ended.

``begin`` takes the snapshot and returns; each rank's share is written by a forked process.
``finish`` waits for all shares and lets the first rank complete and publish the whole. Whatever
goes wrong on whichever rank, all of them are told the same and nobody is left waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from megacpt.checkpoint import shares
from megacpt.checkpoint.background import Background
from megacpt.checkpoint.manifest import FileSum
from megacpt.checkpoint.shares import Planner, Written
from megacpt.device import host_memory
from megacpt.errors import EnvironmentError_, Superseded

Publish = Callable[[Mapping[str, FileSum]], None]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a share, or the whole, could not be written; in the words of the system."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A save that has begun."""

    folder: Path
    writer: Background[Written | Failure] | Written | Failure
    share: shares.Share
    """Held until the end: torch would give page-locked memory to the next who asks for some."""


class Saver:
    """One save is in flight at most. All methods but ``is_writing`` are collective calls."""

    def __init__(self, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._planner = Planner()
        self._flight: Flight | None = None

    @property
    def in_flight(self) -> bool:
        return self._flight is not None

    def is_writing(self) -> bool:
        """Whether this rank's share is still being written."""
        writer = self._flight.writer if self._flight is not None else None
        return isinstance(writer, Background) and writer.is_running()

    def begin(
        self, folder: Path, *, state: dict[str, Any], scratch: Iterable[torch.Tensor] = ()
    ) -> None:
        """Snapshot ``state``, to be written into ``folder``, which exists and is empty.

        ``scratch``: tensors that are no part of it, whose memory need not be kept for that.
        """
        assert self._flight is None, "the last save has not been finished"
        share = self._planner.share(state)
        work = partial(_write, share, folder=folder)
        writer: Background[Written | Failure] | Written | Failure
        if self._asynchronous:
            try:
                with host_memory.left_out_of_forks(scratch):
                    writer = Background(work)
            except OSError as error:
                writer = Failure(reason=reason_of(error))
        else:
            writer = work()
        self._flight = Flight(folder=folder, writer=writer, share=share)

    def finish(self, publish: Publish) -> Failure | None:
        """Wait for all shares, complete them and ``publish`` on the first rank.

        Raises ``Superseded`` on all ranks where publishing did.
        """
        assert self._flight is not None
        flight, self._flight = self._flight, None
        outcomes = _gathered(_result(flight.writer))
        return on_first_rank(
            lambda: self._complete(outcomes, folder=flight.folder, publish=publish)
        )

    def _complete(
        self, outcomes: list[Written | Failure], *, folder: Path, publish: Publish
    ) -> None:
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, Failure):
                raise OSError(0, f"{outcome.reason} (rank {rank})")
        written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        assert self._planner.metadata is not None
        publish(shares.complete(folder, metadata=self._planner.metadata, written=written))

    def discard(self) -> None:
        """Stop writing, on this rank; what was written stays a partial folder."""
        if self._flight is not None and isinstance(self._flight.writer, Background):
            self._flight.writer.kill()
        self._flight = None


def save(folder: Path, *, state: dict[str, Any]) -> None:
    """Write it now and wait; a collective call."""
    saver = Saver(asynchronous=False)
    saver.begin(folder, state=state)
    if failure := saver.finish(lambda files: None):
        raise EnvironmentError_(
            f"{folder} cannot be written: {failure.reason}; free space or mend it."
        )


def on_first_rank(work: Callable[[], None]) -> Failure | None:
    """Run ``work`` there; its failure on all ranks. ``Superseded`` is raised on all of them."""
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


def _write(share: shares.Share, *, folder: Path) -> Written | Failure:
    try:
        return shares.write(share, folder=folder)
    except (OSError, RuntimeError) as error:
        return Failure(reason=reason_of(error))


def _result(writer: Background[Written | Failure] | Written | Failure) -> Written | Failure:
    if not isinstance(writer, Background):
        return writer
    try:
        return writer.result()
    except ChildProcessError as error:
        return Failure(reason=str(error))


def _gathered(outcome: Written | Failure) -> list[Written | Failure]:
    """Of all ranks, on the first; elsewhere nothing."""
    is_first = torch.distributed.get_rank() == 0
    outcomes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(outcome, outcomes if is_first else None)
    return outcomes if is_first else []
