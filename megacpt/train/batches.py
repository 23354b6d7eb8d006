# SPDX-License-Identifier: Apache-2.0
"""This rank's part of every global batch, read ahead of the steps that need it.

One thread reads, in order of steps, so nothing but the time of reading changes: what a step gets is
a function of the step. An error waits for the step it belongs to and is raised there as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import torch
from megatron.core import parallel_state

from megacpt.model.microbatch import Microbatch, host_microbatch
from megacpt.plan.segments import at
from megacpt.samples.training_data import TrainingData

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of a step's data beside its samples."""

    stage: str
    """The entry of ``data.stages`` the step is in; empty before the first one."""
    sequence_length: int
    samples_per_source: dict[str, int]
    """In all steps up to and with this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    microbatches: list[Microbatch]
    """On the host."""
    account: Account


class Prefetcher(Generic[Item]):
    """``take`` steps ``first``, ``first + 1``, ... ``last``; a context manager."""

    def __init__(
        self, load: Callable[[int], Item], *, first: int, last: int, num_ahead: int
    ) -> None:
        """At most ``num_ahead`` items wait to be taken; with 0, ``take`` reads by itself."""
        self._load = load
        self._last = last
        self._num_ahead = num_ahead
        self._next = first
        self._items: dict[int, Future[Item]] = {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._read_up_to(first + num_ahead - 1)

    def take(self, step: int) -> Item:
        """The item of ``step``, once it has been read."""
        if self._num_ahead == 0:
            return self._load(step)
        item = self._items.pop(step).result()
        self._read_up_to(step + self._num_ahead)
        return item

    def _read_up_to(self, step: int) -> None:
        for ahead in range(self._next, min(step, self._last) + 1):
            self._items[ahead] = self._reader.submit(self._load, ahead)
            self._next = ahead + 1

    def close(self) -> None:
        """What is being read is waited for, the rest is dropped."""
        self._items.clear()
        self._reader.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[Item]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_batches(
    data: TrainingData, *, first_step: int, last_step: int, device: torch.device
) -> Prefetcher[StepBatch]:
    """Batches from ``first_step`` (the first is 1) on, ``data.prefetch_steps`` of them ahead."""
    dp_rank = parallel_state.get_data_parallel_rank()
    dp_size = parallel_state.get_data_parallel_world_size()
    settings = data.config

    def load(step: int) -> StepBatch:
        positions = rank_positions(
            data.batch_size(step - 1),
            micro_batch_size=settings.micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
        )
        batches = [data.load(step - 1, positions=p) for p in positions]
        masked = settings.document_mask
        return StepBatch(
            microbatches=[host_microbatch(b, document_mask=masked, device=device) for b in batches],
            account=Account(
                stage=at(data.segments, step=step - 1).name,
                sequence_length=data.sequence_length(step - 1),
                samples_per_source=data.consumed_samples(step),
            ),
        )

    return Prefetcher(load, first=first_step, last=last_step, num_ahead=settings.prefetch_steps)


def rank_positions(
    batch_size: int, *, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[list[int]]:
    """This replica's positions in a global batch, microbatch by microbatch.

    Microbatch m of replica r takes positions (m * dp_size + r) * B up to the next one's, so the
    union over replicas is the global batch for any number of them.
    """
    count = batch_size // (micro_batch_size * dp_size)
    starts = [(m * dp_size + dp_rank) * micro_batch_size for m in range(count)]
    return [list(range(start, start + micro_batch_size)) for start in starts]
