# SPDX-License-Identifier: Apache-2.0
"""Share pieces among processes, of which this one is one.

Threads alone do until about four: then Python's lock is what they wait for. Each further process
gets two pieces at first and another for each it finishes. It has a pipe of its own, so a process
that dies is seen as the end of its pipe, and it ends when this process does. (The standard
library's executors can hang in the first case.)
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Protocol

from megacpt.errors import EnvironmentError_

THREADS_MAX = 4
"""Of a process, whose work lets go of Python's lock for most of its time."""
BYTES_MIN = 1 << 27
"""Bytes that this process reads and tokenizes in the time another takes to start."""
PIECES_AHEAD = 2


class Report(Protocol):
    """Called with bytes read, documents and tokens of each passage that was written."""

    def __call__(self, num_bytes: int, *, documents: int, tokens: int = 0) -> None: ...


def untold(num_bytes: int, *, documents: int, tokens: int = 0) -> None:
    """A report to nobody."""


class Runner(Protocol):
    """Makes pieces in one process."""

    def run(
        self, numbers: Iterable[int], *, report: Report, finished: Callable[[int], None]
    ) -> None:
        """In the order given; ``finished`` is told each that counts."""


class Job(Protocol):
    """What another process needs to take part; it is pickled."""

    def open(self) -> Runner: ...


def num_processes(
    workers: int, *, num_pieces: int, num_bytes: int, threads_max: int | None = None
) -> int:
    threads_max = threads_max or THREADS_MAX
    wanted = -(-workers // threads_max)
    # Work that keeps Python's lock is work in Python, which takes its time.
    bytes_min = BYTES_MIN if threads_max > 1 else max(BYTES_MIN >> 4, 1)
    return max(1, min(wanted, num_pieces // PIECES_AHEAD, num_bytes // bytes_min))


def run_pieces(
    numbers: Sequence[int], *, runner: Runner, job: Job, processes: int, report: Report
) -> None:
    """Finish the pieces, by ``runner`` in this process and ``job`` in others."""
    pieces = _Numbers(numbers)
    helpers = [_Helper(job, pieces=pieces, report=report) for _ in range(processes - 1)]
    try:
        runner.run(pieces, report=report, finished=lambda _: None)
        for helper in helpers:
            helper.join()
        if pieces.failure is not None:
            raise pieces.failure
    finally:
        for helper in helpers:
            helper.stop()


class _Numbers:
    """Deals each number once, to any thread; ends for all at the first failure."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)
        self._lock = threading.Lock()
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            if self.failure is not None:
                raise StopIteration
            return next(self._numbers)

    def fail(self, error: Exception) -> None:
        with self._lock:
            self.failure = self.failure or error


class _Helper:
    """A further process, and the thread of this one that deals with it."""

    def __init__(self, job: Job, *, pieces: _Numbers, report: Report) -> None:
        # spawn: a forked copy of a process that runs threads (the tokenizer's) can hang.
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other_end,), kwargs={"job": job}, daemon=True
        )
        with _interrupts_held():
            self._process.start()
        other_end.close()
        self._thread = threading.Thread(
            target=self._deal, args=(pieces,), kwargs={"report": report}, daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._thread.join()
        self._connection.close()

    def _deal(self, pieces: _Numbers, *, report: Report) -> None:
        try:
            under_way = sum(self._send_next(pieces) for _ in range(PIECES_AHEAD))
            while under_way:
                kind, content = self._connection.recv()
                if kind == "passage":
                    num_bytes, documents, tokens = content
                    report(num_bytes, documents=documents, tokens=tokens)
                elif kind == "piece":
                    under_way += self._send_next(pieces) - 1
                else:
                    pieces.fail(content)
                    return
        except (EOFError, OSError):
            pieces.fail(
                EnvironmentError_(
                    "a worker process died; most often memory ran out: use fewer workers "
                    "(--workers 4 uses one process)."
                )
            )

    def _send_next(self, pieces: _Numbers) -> bool:
        """Send a number, or None if there will be no more; return whether there was one."""
        number = next(pieces, None)
        self._connection.send(number)
        return number is not None


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C in a terminal reaches all processes; the first ends the others. A process that is
    started here never sees it, from its first moment on; this one does at the end."""
    # The first process that is started brings this one along, which would let interrupts in again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, *, job: Job) -> None:
    """The life of a further process."""
    inbox: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    threading.Thread(
        target=_fill, args=(inbox,), kwargs={"connection": connection}, daemon=True
    ).start()

    def report(num_bytes: int, *, documents: int, tokens: int = 0) -> None:
        connection.send(("passage", (num_bytes, documents, tokens)))

    def finished(number: int) -> None:
        connection.send(("piece", number))

    try:
        job.open().run(iter(inbox.get, None), report=report, finished=finished)
    except Exception as error:  # noqa: BLE001
        connection.send(("error", error))


def _fill(inbox: queue.SimpleQueue[int | None], *, connection: Connection) -> None:
    """Piece numbers, until the first process ends: then this one is of no use any more."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
