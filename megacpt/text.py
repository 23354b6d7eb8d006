# SPDX-License-Identifier: Apache-2.0
"""Sizes, counts, durations, lists, sentences and progress as people read them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

LINE_S, REDRAW_S = 5.0, 0.1
"""Between two lines of progress in a file, and on a terminal."""


def memory_size(num_bytes: float, *, digits: int = 2) -> str:
    """Powers of 1024, for memory and what is made of it: ``512 B``, ``1.59 MiB``, ``2.00 TiB``."""
    return _scaled(num_bytes, base=1024, units=("B", "KiB", "MiB", "GiB", "TiB"), digits=digits)


def text_size(num_bytes: float) -> str:
    """Powers of 1000, for text and shards: ``999 bytes``, ``1.5 kB``, ``2.0 GB``."""
    return _scaled(num_bytes, base=1000, units=("bytes", "kB", "MB", "GB", "TB"), digits=1)


def _scaled(size: float, *, base: int, units: Sequence[str], digits: int) -> str:
    power = 0
    while size >= base and power < len(units) - 1:
        size, power = size / base, power + 1
    return f"{size:,.{digits if power else 0}f} {units[power]}"


def count(number: float | None, *, digits: int = 1) -> str:
    """``612``, ``12.3k``, ``4.6M``, ``80.0B``, ``1.2T``; a dash for what is not known."""
    if number is None:
        return "-"
    if number < 10_000:
        return f"{number:.0f}"
    for size, letter in ((1e3, "k"), (1e6, "M"), (1e9, "B")):
        if number < 999.95 * size:
            return f"{number / size:.{digits}f}{letter}"
    return f"{number / 1e12:.{digits}f}T"


def duration(seconds: float) -> str:
    """``0:42``, ``1:02:03``, ``3d 04h``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}h"
    return f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def listed(words: Iterable[object]) -> str:
    """``law``, ``law and code``, ``law, code and news``."""
    return _joined(words, last="and")


def one_of(words: Iterable[object]) -> str:
    """``1``, ``1 or 2``, ``1, 2 or 4``."""
    return _joined(words, last="or")


def _joined(words: Iterable[object], *, last: str) -> str:
    *before, end = map(str, words)
    return f"{', '.join(before)} {last} {end}" if before else end


def wrapped(text: str, *, head: str, indent: int) -> list[str]:
    """Lines of at most 80 columns, for a terminal: the first behind ``head``, others indented."""
    return textwrap.wrap(text, 80, initial_indent=head, subsequent_indent=" " * indent)


def rate_text(elapsed_s: float, *, what: str, done: float, total: int) -> str:
    """``answers 30 of 120  2.5/s  0:36 left``; something is done."""
    rate = done / max(elapsed_s, 1e-9)
    left = duration((total - done) / rate)
    return f"{what} {done:,.0f} of {total:,}  {rate:,.1f}/s  {left} left"


class LiveLine:
    """A line that is drawn again on a terminal, and added now and then elsewhere; ``close`` removes
    it again."""

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet_s: float,
        every_s: float = LINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock = stream, clock
        self._is_terminal = stream.isatty()
        self._every_s = REDRAW_S if self._is_terminal else every_s
        self._started_at = clock()
        self._due_at = self._started_at + quiet_s
        self._drawn = False

    def show(self, text: Callable[[float], str]) -> None:
        """Where it is time; ``text`` is made of the seconds since the beginning."""
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        line = text(now - self._started_at)
        self._stream.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
        self._stream.flush()
        self._drawn = True

    def close(self) -> None:
        if self._drawn and self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._drawn = False
