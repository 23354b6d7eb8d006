# SPDX-License-Identifier: Apache-2.0
"""Ends a rank that has shown no sign of life for too long, after writing where each thread stands.

A thread of the rank watches the last ``beat``. It writes the stacks of all threads, whatever they
wait for, then gives the other ranks time to do the same before its end breaks their connections.
Where the interpreter itself is stuck (a read of a dead file system with Python's lock held) the
thread cannot run; faulthandler's own timer, which needs no lock, then does the same a little later,
but ends with exit code 1 and no message.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

POLLS = 20
"""Looks at the clock within the time allowed."""
LONGEST_GRACE_S = 5.0
FALLBACK_S = 5.0
"""How much later than the thread faulthandler's timer is set to act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOfLife:
    activity: str
    at: float
    """Seconds since the epoch."""

    def __str__(self) -> str:
        moment = datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="seconds")
        return f"{self.activity} at {moment}"


class Stacks:
    """RUN_DIR/logs/rank_N.stacks.txt, open so that it can be written in any state of the rank."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file: TextIO = path.open("w", encoding="utf-8")

    def dump_when_asked(self) -> None:
        """On SIGQUIT (the launcher's question) and on a crash inside native code."""
        faulthandler.register(signal.SIGQUIT, file=self.file, all_threads=True)
        faulthandler.enable(self.file, all_threads=True)

    def dump(self, headline: str) -> None:
        self.file.write(headline + "\n")
        self.file.flush()
        faulthandler.dump_traceback(self.file, all_threads=True)

    def close(self) -> None:
        """A run that ended well leaves no empty file."""
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGQUIT)
        faulthandler.disable()
        self.file.close()
        if self.path.stat().st_size == 0:
            self.path.unlink()


class Watchdog:
    """``beat`` at every sign of life; a context manager that watches while it is open."""

    def __init__(
        self, *, hang_s: float, stacks: Stacks, leave: Callable[[SignOfLife], None]
    ) -> None:
        """``leave`` reports the last sign of life; the rank then ends with ``os.EX_TEMPFAIL``."""
        self._hang_s, self._stacks, self._leave = hang_s, stacks, leave
        self._grace_s = min(LONGEST_GRACE_S, hang_s / 2)
        self._last = (time.monotonic(), "start")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, activity: str | None = None) -> None:
        """Sign of life: a new activity, or None to repeat the last.

        Cheap enough for every microbatch: one assignment, atomic between threads.
        """
        self._last = (time.monotonic(), self._last[1] if activity is None else activity)

    def __enter__(self) -> Watchdog:
        self.beat("start of training")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(self._hang_s / POLLS):
            silent_s = time.monotonic() - self._last[0]
            if silent_s > self._hang_s:
                self._end(silent_s)
            faulthandler.dump_traceback_later(
                self._hang_s - silent_s + self._grace_s + FALLBACK_S,
                exit=True,
                file=self._stacks.file,
            )

    def _end(self, silent_s: float) -> None:
        sign = SignOfLife(activity=self._last[1], at=time.time() - silent_s)
        self._stacks.dump(f"No sign of life for {silent_s:.1f} s; the last one: {sign}")
        self._leave(sign)
        time.sleep(self._grace_s)
        os._exit(os.EX_TEMPFAIL)
