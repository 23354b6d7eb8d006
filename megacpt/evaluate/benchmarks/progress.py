# SPDX-License-Identifier: Apache-2.0
"""How far the questions of a suite are, for a person who waits: rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from megacpt.text import LiveLine, duration

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
        self._stream, self._clock = stream, clock
        self.begin("")

    def begin(self, what: str) -> None:
        self._what = what
        self._line = LiveLine(self._stream, quiet_s=QUIET_S, every_s=EVERY_S, clock=self._clock)
        self._before, self._count, self._total = 0, 0, 0

    def part(self, *, before: int, count: int, total: int) -> None:
        self._before, self._count, self._total = before, count, total

    def passed(self, done: int, of: int) -> None:
        asked = self._before + self._count * done / max(of, 1)
        if asked > 0:
            self._line.show(lambda elapsed_s: self._text(asked, elapsed_s=elapsed_s))

    def close(self) -> None:
        self._line.close()

    def _text(self, asked: float, *, elapsed_s: float) -> str:
        rate = asked / max(elapsed_s, 1e-9)
        left = duration((self._total - asked) / rate)
        return f"{self._what}  {asked:,.0f} of {self._total:,}  {rate:,.1f}/s  {left} left"
