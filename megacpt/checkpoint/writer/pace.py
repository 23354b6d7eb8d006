# SPDX-License-Identifier: Apache-2.0
"""Keeps a process to a part of one core on average, until the one it was forked from waits for it.

A weak priority alone does not do that. Where ranks compute on all cores, all threads of a matrix
product wait for the one whose core was taken, and what runs whenever a core is free still fills the
caches and the memory bus.
"""

from __future__ import annotations

import mmap
import time

CORES = 0.05
"""Beside a rank that computes on CPUs: 2 GB are written in about 40 s."""
LONGEST_REST_S = 0.05
"""So soon it hears that somebody waits."""
SHORTEST_REST_S = 0.01


class Pace:
    """``rest`` is for the process that works, ``begin`` and ``hurry`` for the one that waits."""

    def __init__(self, *, cores: float) -> None:
        """Before the fork. ``cores``: how much of one; 1 or more: no rest is taken."""
        self.rested_s = 0.0
        """Since ``start``, in the process that works."""
        self._cores = cores
        self._hurry = mmap.mmap(-1, 1)
        """One byte that both see."""
        self._began_at = self._cpu_before_s = 0.0

    def begin(self) -> None:
        self._hurry[0] = 0

    def hurry(self) -> None:
        self._hurry[0] = 1

    def start(self) -> None:
        """From here on the working process counts."""
        self._began_at, self._cpu_before_s = time.monotonic(), time.process_time()
        self.rested_s = 0.0

    def rest(self) -> None:
        """To be called after each little piece of work."""
        used_s = time.process_time() - self._cpu_before_s
        ahead_s = used_s / self._cores - (time.monotonic() - self._began_at)
        if ahead_s > SHORTEST_REST_S and self._cores < 1 and not self._hurry[0]:
            before = time.monotonic()
            time.sleep(min(ahead_s, LONGEST_REST_S))
            self.rested_s += time.monotonic() - before
