# SPDX-License-Identifier: Apache-2.0
"""How far a tokenization is, and how that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from megacpt.text import duration, text_size

QUIET_S = 2.0
"""Work that is done sooner shows nothing where its output is kept in a file."""
LINE_S, REDRAW_S = 5.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeProgress:
    """Where a tokenization is."""

    bytes_done: int
    bytes_total: int
    """Of the input files on disk."""
    bytes_before: int = 0
    """Of those, done by an earlier run."""
    documents: int
    tokens: int
    tokens_before: int = 0


ProgressCallback = Callable[[TokenizeProgress], None]


class ProgressLine:
    """Called with all progress: redraws a line on a terminal, else adds one now and then.

    ``close`` removes the line again.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        every_s: float = LINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock = stream, clock
        self._is_terminal = stream.isatty()
        self._every_s = REDRAW_S if self._is_terminal else every_s
        self._started_at = clock()
        self._due_at = self._started_at + (0 if self._is_terminal else QUIET_S)
        self._drawn = False

    def __call__(self, progress: TokenizeProgress) -> None:
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        text = render(progress, elapsed_s=now - self._started_at)
        self._stream.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        self._stream.flush()
        self._drawn = True

    def close(self) -> None:
        if self._drawn and self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def render(progress: TokenizeProgress, *, elapsed_s: float) -> str:
    """At most 80 columns."""
    elapsed_s = max(elapsed_s, 1e-9)
    share = progress.bytes_done / max(progress.bytes_total, 1)
    rate = (progress.bytes_done - progress.bytes_before) / elapsed_s
    tokens_per_s = (progress.tokens - progress.tokens_before) / elapsed_s
    left_s = (progress.bytes_total - progress.bytes_done) / rate if rate else 0.0
    return (
        f"{share:6.1%} of {text_size(progress.bytes_total)}  {rate / 1e6:.1f} MB/s  "
        f"{tokens_per_s / 1e6:.2f} M tokens/s  {progress.documents:,} documents  "
        f"{duration(left_s)} left"
    )
