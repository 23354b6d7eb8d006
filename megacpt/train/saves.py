# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run in training: begun when they are due, published when they are written.

Training stands still while a snapshot is taken and while a finished checkpoint is published; the
seconds of both are in the record of the next step. A save that fails leaves the last good
checkpoint as it is, and the run goes on or stops as ``checkpoint.on_error`` says.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from megacpt.checkpoint import folders
from megacpt.checkpoint.manifest import CheckpointManifest, FileSum
from megacpt.checkpoint.retention import Retention
from megacpt.checkpoint.starts import Start
from megacpt.checkpoint.state import adam, entries
from megacpt.checkpoint.writer.process import Background
from megacpt.checkpoint.writer.saver import Failure, Saver, on_first_rank
from megacpt.config.sections import Dtype, SaveErrorPolicy
from megacpt.device import runtime
from megacpt.errors import EnvironmentError_, Superseded
from megacpt.evaluate.heldout import evaluating
from megacpt.families.architecture import Architecture
from megacpt.plan.memory import checkpoint_bytes
from megacpt.text import memory_size
from megacpt.train.position import Identity, Position, manifest_of
from megacpt.train.state import TrainState

logger = logging.getLogger(__name__)
MOST_FAILURES = 3
"""Failures in a row after which a run ends: the next save would fail as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A save that has begun: all that its manifest says but the files."""

    manifest: CheckpointManifest
    partial: Path
    start: Start
    began_at: float


class Saves:
    """Collective calls but for ``is_writing``, ``settle``, ``hurry`` and ``figures``."""

    def __init__(
        self,
        state: TrainState,
        *,
        folder: Path,
        identity: Identity,
        retention: Retention,
        on_error: SaveErrorPolicy,
        writer: Background[Any] | None = None,
        beat: Callable[[str], None] = lambda activity: None,
        count_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """``folder``: of all checkpoints. ``writer``: writes beside training; None: it waits.

        ``count_seconds`` is told how long each save would have taken had it been waited for.
        """
        self._state, self._folder, self._identity = state, folder, identity
        self._retention, self._on_error = retention, on_error
        self._saver, self._beat, self._count_seconds = Saver(writer), beat, count_seconds
        self._pending: Pending | None = None
        self._prune_thread: Thread | None = None
        self._failures = 0
        self._is_prepared = False
        self._stall_s = 0.0
        self._write_s: float | None = None

    def is_writing(self) -> bool:
        """Whether this rank's share is still being written."""
        return self._saver.is_writing()

    def figures(self) -> dict[str, Any]:
        """Seconds since they were last asked for; empty where nothing was saved."""
        found: dict[str, Any] = {"checkpoint_stall_s": self._stall_s} if self._stall_s else {}
        if self._write_s is not None:
            found["checkpoint_write_s"] = self._write_s
        self._stall_s, self._write_s = 0.0, None
        return found

    def prepare(self) -> None:
        """Make plans and memory for the first save, once, when the first step is done."""
        if not self._is_prepared:
            self._is_prepared = True
            with self._stalled():
                self._saver.prepare(state=self._entries())

    def begin(self, position: Position, *, start: Start, must: bool = False) -> None:
        """Take the snapshot; the save before it, if it still runs, is waited for.

        ``must``: the run ends with it, so that its failure is the run's.
        """
        self.finish(position)
        self._beat(f"checkpoint of step {position.step}")
        partial = folders.partial_folder(self._folder, step=position.step, start=start)
        with self._stalled():
            began_at = time.monotonic()
            if self._prune_thread is not None:
                self._prune_thread.join()
            failure = on_first_rank(
                lambda: _make_folder(partial, start=start, architecture=self._identity.architecture)
            )
            if failure is not None:
                self._fail(failure, partial=partial, position=position, must=must)
                return
            manifest = manifest_of(position, identity=self._identity, start=start)
            self._saver.begin(partial, state=self._entries())
        self._pending = Pending(manifest=manifest, partial=partial, start=start, began_at=began_at)

    def settle(self) -> float:
        """Wait for the snapshot; call it before weights or optimizer state change.

        The seconds it took, which are part of the stall.
        """
        stall_s = self._stall_s
        if self._saver.is_copying:
            with self._stalled():
                self._saver.settle()
        return self._stall_s - stall_s

    def hurry(self) -> None:
        """The run will soon end. Signal handlers may call it."""
        self._saver.hurry()

    def _entries(self) -> dict[str, Any]:
        chunks, optimizer = self._state.chunks, self._state.optimizer
        # Of an optimizer whose every update was skipped there would be nothing to write.
        adam.allocate_state(optimizer)
        with evaluating(chunks):
            return entries(chunks, optimizer=optimizer, rng_state=runtime.rng_state())

    def finish(self, position: Position, *, must: bool = False) -> None:
        """Wait for the save in flight, if there is one, and publish it. ``must`` as above."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step = pending.manifest.step
        self._beat(f"waiting for the checkpoint of step {step}")
        with self._stalled():
            failure = self._saver.finish(
                lambda files: self._publish(pending, files=files, wait=must)
            )
        if failure is not None:
            self._fail(failure, partial=pending.partial, position=position, must=must)
            return
        self._failures = 0
        self._write_s = time.monotonic() - pending.began_at
        self._count_seconds(self._write_s - self._saver.rested_s)
        position.checkpoint_step = step

    def _publish(self, pending: Pending, *, files: Mapping[str, FileSum], wait: bool) -> None:
        start = pending.start
        manifest = replace(pending.manifest, files=dict(files))
        folders.publish(self._folder, partial=pending.partial, manifest=manifest, start=start)
        # Deleting gigabytes takes a while, and nothing waits for it but the end of the run.
        self._prune_thread = Thread(target=self._prune, args=(start,), name="prune")
        self._prune_thread.start()
        if wait:
            self._prune_thread.join()

    def _prune(self, start: Start) -> None:
        try:
            folders.prune(self._folder, policy=self._retention, start=start)
        except Superseded:
            pass  # The loop sees it at its next step, and says so.
        except OSError as error:
            logger.warning("an old checkpoint could not be deleted: %s", error)

    def _fail(self, failure: Failure, *, partial: Path, position: Position, must: bool) -> None:
        """Warn or raise, the same on all ranks: they all know the same reason."""
        self._failures += 1
        on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        last = position.checkpoint_step
        kept = f"the checkpoint of step {last} is whole" if last else "there is none before it"
        message = (
            f"{partial} could not be written: {failure.reason}; {kept}. "
            "Free space or fix what is wrong there"
        )
        if must or self._on_error is SaveErrorPolicy.stop or self._failures >= MOST_FAILURES:
            raise EnvironmentError_(f"{message}, then start the same command again.")
        if torch.distributed.get_rank() == 0:
            logger.warning("%s; the run goes on and saves again when it is due.", message)

    @contextmanager
    def _stalled(self) -> Iterator[None]:
        began_at = time.perf_counter()
        try:
            yield
        finally:
            self._stall_s += time.perf_counter() - began_at


def _make_folder(partial: Path, *, start: Start, architecture: Architecture) -> None:
    start.require_held()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _require_space(partial, architecture=architecture)


def _require_space(folder: Path, *, architecture: Architecture) -> None:
    """What AdamW's checkpoint with a bf16 copy of the weights needs is the most there is."""
    needed_bytes = checkpoint_bytes(architecture, dtype=Dtype.bf16)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise EnvironmentError_(
            f"it needs about {memory_size(needed_bytes)}, and {folder.parent} has "
            f"{memory_size(free_bytes)} free"
        )
