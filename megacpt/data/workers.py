# SPDX-License-Identifier: Apache-2.0
"""Map a function over items on several processes, results in the order of the items.

Items are dealt round. Each worker has a pipe of its own and reads it in a thread, so neither side
ever waits to be read while the other does; a worker ends when its pipe does, and a worker that
dies is seen as the end of its pipe. (The standard library's executors can hang in that case.)
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from megacpt.errors import EnvironmentError_

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_PER_WORKER = 2
"""Sent ahead: one to work on, one that waits."""


def map_in_order(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with ``work(item)``. ``work`` and the items are pickled; errors are raised here.

    At most ``ITEMS_PER_WORKER`` items a worker are in memory. Close the generator to end them.
    """
    crew: list[_Worker[Item, Result]] = []
    under_way: deque[tuple[Item, _Worker[Item, Result]]] = deque()
    try:
        for number, item in enumerate(items):
            if len(under_way) == workers * ITEMS_PER_WORKER:
                oldest, worker = under_way.popleft()
                yield oldest, worker.receive()
            if len(crew) < workers:
                crew.append(_Worker(work))
            worker = crew[number % workers]
            worker.send(item)
            under_way.append((item, worker))
        for oldest, worker in under_way:
            yield oldest, worker.receive()
    finally:
        for worker in crew:
            worker.stop()


class _Worker(Generic[Item, Result]):
    """The parent's side of a worker process."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        # spawn: a forked copy of a process that runs threads (torch, the tokenizer's) can hang.
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, work), daemon=True)
        self._process.start()
        other_end.close()

    def send(self, item: Item) -> None:
        try:
            self._connection.send(item)
        except OSError as error:
            raise _died() from error

    def receive(self) -> Result:
        try:
            result, error = self._connection.recv()
        except (EOFError, OSError) as lost:
            raise _died() from lost
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def stop(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _died() -> EnvironmentError_:
    return EnvironmentError_(
        "a worker process died; most often memory ran out: use fewer workers (workers=1)."
    )


def _serve(connection: Connection, work: Callable[[Item], Result]) -> None:
    """The life of a worker process."""
    # Ctrl-C goes to the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
    threading.Thread(target=_fill, args=(inbox, connection), daemon=True).start()
    while received := inbox.get():
        answer: tuple[Result | None, Exception | None]
        try:
            answer = (work(received[0]), None)
        except Exception as error:  # noqa: BLE001
            answer = (None, error)
        try:
            connection.send(answer)
        except OSError:
            return


def _fill(inbox: queue.SimpleQueue[list[Item]], connection: Connection) -> None:
    """Items in lists of one; an empty list is the end."""
    try:
        while True:
            inbox.put([connection.recv()])
    except (EOFError, OSError):
        inbox.put([])
