# SPDX-License-Identifier: Apache-2.0
"""How far a tokenization is, and how that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from megacpt.text import LINE_S, LiveLine, duration, text_size

QUIET_S = 2.0
"""Work that is done sooner shows nothing where its output is kept in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeProgress:
    """State of a tokenization."""

    bytes_done: int
    bytes_total: int
    """Bytes of the input files on disk."""
    bytes_before: int = 0
    """Bytes that an earlier run has done."""
    documents: int
    tokens: int
    tokens_before: int = 0


ProgressCallback = Callable[[TokenizeProgress], None]


class ProgressLine:
    """Called with all progress of a tokenization."""

    def __init__(
        self,
        stream: TextIO,
        *,
        every_s: float = LINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        quiet_s = 0 if stream.isatty() else QUIET_S
        self._line = LiveLine(stream, quiet_s=quiet_s, every_s=every_s, clock=clock)
        self.close = self._line.close

    def __call__(self, progress: TokenizeProgress) -> None:
        self._line.show(lambda elapsed_s: render(progress, elapsed_s=elapsed_s))


def render(progress: TokenizeProgress, *, elapsed_s: float) -> str:
    """A line of at most 80 columns."""
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
