# SPDX-License-Identifier: Apache-2.0
"""A process beside a rank that runs one function at a time on tensors the rank has shared with it.

It is forked while the rank is small, before there is a model: a process forked later would have to
share the model's pages, and the next step would stop at each one it writes to, to copy it. It takes
little of a core while nobody waits for it (megacpt.checkpoint.writer.pace), and ends with its rank.

Tensors are copied while the rank computes: weights and optimizer state stay as they are from one
update to the next, through a whole forward and backward pass (the idea of CheckFreq, FAST '21).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

import torch

from megacpt.checkpoint.writer.pace import Pace
from megacpt.checkpoint.writer.shared_memory import Copy, Place, SharedMemory, mapped, populate
from megacpt.device.environment import die_with_parent

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Rest = Callable[[], None]
"""To be called after each little piece of work."""


class Work(Protocol):
    """What it does with the memory that holds the tensors."""

    def __call__(self, memory: mmap.mmap, *, rest: Rest) -> Any: ...


NICENESS = 10
"""A tenth of the claim to a core that the rank has. With none at all (SCHED_IDLE), a save that is
waited for takes minutes where other programs keep the cores busy: no process may take it back."""
NOT_ITS_OWN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""They ask the run to save and end. A save under way is what they want, so it goes on."""


class Background(Generic[Result]):
    """``hold`` tensors, ``begin`` a function of the memory they lie in, ``settle`` before the
    tensors change, take the ``result``."""

    def __init__(self, *, cores: float) -> None:
        """``cores``: how much of one it may take, while nobody waits (pace.py).

        An ``OSError`` where the system can give no file or process.
        """
        self._memory, self._pace = SharedMemory(), Pace(cores=cores)
        self._connection, theirs = Pipe()
        self._process = get_context("fork").Process(
            target=_serve,
            args=(theirs,),
            kwargs={
                "theirs": self._connection,
                "file": self._memory.file,
                "pace": self._pace,
                "parent": os.getpid(),
            },
        )
        with theirs, warnings.catch_warnings():
            # Of threads that the child would miss: it computes nothing in parallel.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        self._is_busy = self._makes_room = False
        self.rested_s = 0.0
        """Of what its last work took, while nobody waited."""
        self._copies: list[Copy] = []
        self._copier: Thread | None = None

    def reserve(self, tensors: Sequence[torch.Tensor]) -> None:
        """Have room made for them, beside training: new pages of memory take their time."""
        if not self._is_busy:
            self._memory.reserve(tensors)
            self.begin(_make_room)
            self._makes_room = True

    def hold(self, tensors: Sequence[torch.Tensor]) -> list[Place]:
        """Copies of ``tensors``, until the next call. ``OSError`` where memory is short.

        The tensors must stay as they are until ``begin`` and then ``settle`` have returned.
        """
        if self._makes_room:
            self.result()
        assert not self._is_busy
        places, self._copies = self._memory.hold(tensors)
        return places

    def begin(self, work: Work) -> None:
        """Once what is held has been copied. ``work`` and what it returns are pickled."""
        assert not self._is_busy
        message = pickle.dumps((work, self._memory.size))
        self._is_busy = True
        self._pace.begin()
        copies, self._copies = self._copies, []
        if copies:
            copier = Thread(target=self._send, args=(message,), kwargs={"copies": copies})
            copier.start()
            self._copier = copier
        else:
            self._send(message, copies=copies)

    def _send(self, message: bytes, *, copies: Sequence[Copy]) -> None:
        for copy in copies:
            copy.make()
        # That it is dead is heard when its result is asked for.
        with contextlib.suppress(OSError):
            self._connection.send_bytes(message)

    def hurry(self) -> None:
        """Somebody waits, or will soon: no more rests. Signal handlers may call it."""
        self._pace.hurry()

    @property
    def is_copying(self) -> bool:
        """Whether ``settle`` is still to be called."""
        return self._copier is not None

    def settle(self) -> None:
        """Wait until all that is held has been copied."""
        if self._copier is not None:
            self._copier.join()
            self._copier = None

    def is_running(self) -> bool:
        return self._is_busy and not self._makes_room and not self._connection.poll()

    def result(self) -> Result:
        """Wait for it. ``ChildProcessError`` where the process died before it had one."""
        assert self._is_busy
        self.settle()
        self.hurry()
        self._is_busy = self._makes_room = False
        try:
            result: Result
            result, self.rested_s = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise ChildProcessError(self._end()) from error
        return result

    def close(self) -> None:
        """What it is still doing is given up."""
        self.settle()
        if self._is_busy:
            self._process.kill()
        self._connection.close()
        self._process.join()

    def _end(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            runs_out = ", which the system does when memory runs out"
            why = runs_out if -code == signal.SIGKILL else ""
            return f"its writing process was killed by {name}{why}"
        return f"its writing process ended with exit code {code}"


@contextmanager
def started(*, wanted: bool, cores: float) -> Iterator[Background[Any] | None]:
    """One for as long as the block runs, if it is ``wanted``; ``cores`` as above."""
    if not wanted:
        yield None
        return
    try:
        background: Background[Any] = Background(cores=cores)
    except OSError as error:
        logger.warning("no process can be started (%s); training waits for checkpoints", error)
        yield None
        return
    try:
        yield background
    finally:
        background.close()


def _make_room(memory: mmap.mmap, *, rest: Rest) -> None:
    with contextlib.suppress(OSError):  # Said by the one who needs it.
        populate(memory)


def _serve(
    connection: Connection, *, theirs: Connection, file: int, pace: Pace, parent: int
) -> None:
    die_with_parent()
    if os.getppid() != parent:
        return  # It ended before Linux was told.
    # Else it would never hear that the other side has closed.
    theirs.close()
    for number in NOT_ITS_OWN:
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    # The parent's objects are not this process's to free, nor to look at, which would copy them.
    gc.freeze()
    # Its threads are not here.
    torch.set_num_threads(1)
    while True:
        try:
            work, size = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        pace.start()
        result = work(mapped(file, size=size), rest=pace.rest)
        connection.send_bytes(pickle.dumps((result, pace.rested_s)))
