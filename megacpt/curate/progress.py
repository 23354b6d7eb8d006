# SPDX-License-Identifier: Apache-2.0
"""How far a step of a curation is, on one line."""

from __future__ import annotations

import threading
from typing import TextIO

from megacpt.text import LiveLine, duration, text_size

QUIET_S = 2.0


class StepLine:
    """Told of every batch, by any thread; shows nothing of work that is done in two seconds."""

    def __init__(self, stream: TextIO, *, name: str, bytes_total: int) -> None:
        self._line, self._name, self._total = LiveLine(stream, quiet_s=QUIET_S), name, bytes_total
        self._bytes = self._documents = 0
        self._lock = threading.Lock()

    def __call__(self, num_bytes: int, *, documents: int, tokens: int = 0) -> None:
        with self._lock:
            self._bytes += num_bytes
            self._documents += documents
            self._line.show(self._text)

    def _text(self, elapsed_s: float) -> str:
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
            self._line.close()
