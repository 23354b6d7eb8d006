# SPDX-License-Identifier: Apache-2.0
"""Time that work takes on the device itself, without making the host wait for it."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Adds up spans between ``start`` and ``stop``; ``total_s`` of a device that has caught up."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started_at = 0.0
        self._total_s = 0.0
        self._marks: list[torch.cuda.Event] = []
        """On a GPU: start and end of each span in turn, used again after a ``reset``."""
        self._used = 0

    def start(self) -> None:
        if self._on_gpu:
            self._mark()
        else:
            self._started_at = time.perf_counter()

    def stop(self) -> None:
        if self._on_gpu:
            self._mark()
        else:
            self._total_s += time.perf_counter() - self._started_at

    def total_s(self) -> float:
        """Since the last ``reset``; waits for the device where it is still at work."""
        if not self._on_gpu:
            return self._total_s
        marks = self._marks[: self._used]
        if marks:
            marks[-1].synchronize()
        spans = zip(marks[::2], marks[1::2], strict=True)
        return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1000

    def reset(self) -> None:
        self._total_s, self._used = 0.0, 0

    def _mark(self) -> None:
        if self._used == len(self._marks):
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        self._marks[self._used].record()
        self._used += 1
