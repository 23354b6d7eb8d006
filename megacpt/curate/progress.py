# SPDX-License-Identifier: Apache-2.0
"""How far a step of a curation is, on one line."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from megacpt.text import duration, text_size

QUIET_S = 2.0
LINE_S, REDRAW_S = 5.0, 0.1


class StepLine:
    """Told of every batch, by any thread; shows nothing of work that is done in two seconds."""

    def __init__(self, stream: TextIO, *, name: str, bytes_total: int) -> None:
        self._stream, self._name, self._total = stream, name, bytes_total
        self._is_terminal = stream.isatty()
        self._started_at = time.monotonic()
        self._due_at = self._started_at + QUIET_S
        self._bytes = self._documents = 0
        self._lock = threading.Lock()
        self._drawn = False

    def __call__(self, num_bytes: int, *, documents: int, tokens: int = 0) -> None:
        with self._lock:
            self._bytes += num_bytes
            self._documents += documents
            now = time.monotonic()
            if now < self._due_at:
                return
            self._due_at = now + (REDRAW_S if self._is_terminal else LINE_S)
            text = self._text(elapsed_s=now - self._started_at)
            self._stream.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
            self._stream.flush()
            self._drawn = True

    def _text(self, *, elapsed_s: float) -> str:
        # A step may read its input more than once.
        share = min(self._bytes / max(self._total, 1), 1.0)
        rate = self._bytes / elapsed_s
        left_s = max(self._total - self._bytes, 0) / rate if rate else 0.0
        return (
            f"{self._name}: {share:6.1%} of {text_size(self._total)}  {rate / 1e6:.1f} MB/s  "
            f"{self._documents:,} documents  {duration(left_s)} left"
        )

    def close(self) -> None:
        with self._lock:
            if self._drawn and self._is_terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
            self._drawn = False
