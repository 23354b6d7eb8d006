# SPDX-License-Identifier: Apache-2.0
"""Run a function in a forked process that sees memory as it was at this moment.

Linux copies a page for the child only once the parent writes to it, so the fork itself is the
snapshot. The child takes no core from a training rank that wants it, and ends with it.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from typing import IO, Generic, TypeVar

import torch

from megacpt.device.environment import die_with_parent

Result = TypeVar("Result")
NICENESS = 19
"""The weakest claim to a core that Linux knows: a busy core gives it about one part in seventy."""
NOT_ITS_OWN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""They ask the run to save and end. A save under way is what they want, so it goes on."""


class Background(Generic[Result]):
    """``work`` in a forked process; its result comes back through an unlinked file."""

    def __init__(self, work: Callable[[], Result]) -> None:
        """An ``OSError`` where the system can give no file or process."""
        # A pipe would hold no more than 64 KiB of results until this side reads them.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = get_context("fork").Process(
            target=_run, args=(work, self._file, os.getpid()), daemon=True
        )
        try:
            with warnings.catch_warnings():
                # Of threads that the child would miss: it computes nothing in parallel.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        except OSError:
            self._file.close()
            raise

    def is_running(self) -> bool:
        return self._process.is_alive()

    def result(self) -> Result:
        """Wait for it. ``ChildProcessError`` where the process died before it had one."""
        self._process.join()
        with self._file as file:
            file.seek(0)
            content = file.read()
        if self._process.exitcode != 0:
            raise ChildProcessError(_end(self._process.exitcode))
        result: Result = pickle.loads(content)
        return result

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._file.close()


def _run(work: Callable[[], Result], file: IO[bytes], parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:
        return  # It ended before Linux was told.
    for number in NOT_ITS_OWN:
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    # The parent's tensors are not this process's to free, and its threads are not here.
    gc.disable()
    torch.set_num_threads(1)
    pickle.dump(work(), file)
    file.flush()


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", which the system does when memory runs out" if -code == signal.SIGKILL else ""
        return f"its writing process was killed by {name}{memory}"
    return f"its writing process ended with exit code {code}"
