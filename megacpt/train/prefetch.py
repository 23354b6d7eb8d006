# SPDX-License-Identifier: Apache-2.0
"""Read the batches of the next steps while the present one is computed.

One thread reads, in order of steps, so nothing but the time of reading changes: what a step gets is
a function of the step. An error waits for the step it belongs to and is raised there as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


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
        """Wait for what is being read and drop the rest."""
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
