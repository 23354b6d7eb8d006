# SPDX-License-Identifier: Apache-2.0
"""How far the questions of a suite are, for a person who waits: rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TextIO

from megacpt.text import LiveLine, rate_text

QUIET_S, EVERY_S = 2.0, 15.0
"""Until it is shown first, and between two lines of it in a file."""


class Progress:
    """Shows nothing: in training, where steps have a line of their own, and on other ranks."""

    def begin(self, what: str) -> None:
        """Questions of another suite or model come."""

    def part(self, *, before: int, count: int, total: int) -> None:
        """``count`` questions of ``total`` are asked together; ``before`` have been."""

    def passed(self, done: int, of: int) -> None:
        """That share of the part is answered; passes of the model or texts, whatever is counted."""

    def close(self) -> None:
        """The line is taken away."""


class ProgressLine(Progress):
    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._new_line = partial(LiveLine, stream, quiet_s=QUIET_S, every_s=EVERY_S, clock=clock)
        self._line, self._what = self._new_line(), ""
        self._before, self._count, self._total = 0, 0, 0

    def begin(self, what: str) -> None:
        self._line.close()
        self._line, self._what = self._new_line(), what

    def part(self, *, before: int, count: int, total: int) -> None:
        self._before, self._count, self._total = before, count, total

    def passed(self, done: int, of: int) -> None:
        asked = self._before + self._count * done / max(of, 1)
        if asked > 0:
            self._line.show(partial(rate_text, what=self._what, done=asked, total=self._total))

    def close(self) -> None:
        self._line.close()


SILENT = Progress()
