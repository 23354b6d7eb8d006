# SPDX-License-Identifier: Apache-2.0
"""Which rank holds the others up: each rank's own time a step, without its waits for others.

megacpt.device.timers measures it. The wait for data counts: it is the rank's own.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megacpt.monitor.metrics import RankTimes

WINDOW_STEPS = 8
"""A rank's time is its median over so many steps: one slow step makes no straggler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The answer of one small collective a step, the same on every rank."""

    grad_norm: float
    """The largest any rank has found (they agree but for a fault of the machine), or NaN."""
    compute_s_R: list[float]
    """Seconds of every rank."""


def gather(*, grad_norm: float, compute_s: float, device: torch.device) -> Gathered:
    """All ranks get the same; a collective call."""
    own = torch.tensor([grad_norm, compute_s], dtype=torch.float64, device=device)
    world = torch.distributed.get_world_size()
    rows = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(rows, own)
    norms_R, compute_s_R = torch.stack(rows).unbind(dim=1)
    return Gathered(grad_norm=float(norms_R.max()), compute_s_R=compute_s_R.tolist())


class Stragglers:
    """The ranks' times of the last steps, on every rank the same."""

    def __init__(self, hosts: Sequence[str], *, factor: float) -> None:
        """``hosts``: of each rank. ``factor``: times the median that make a straggler."""
        self._hosts, self._factor = hosts, factor
        self._recent: deque[Sequence[float]] = deque(maxlen=WINDOW_STEPS)

    def add(self, compute_s_R: Sequence[float]) -> RankTimes:
        """Count a step; the slowest rank beside the median one over the last steps."""
        self._recent.append(compute_s_R)
        times = [statistics.median(own) for own in zip(*self._recent, strict=True)]
        # Of two ranks the faster one is the median: else no rank could be twice as slow as it.
        median_s = statistics.median_low(times)
        slowest = max(range(len(times)), key=times.__getitem__)
        is_full = len(self._recent) == WINDOW_STEPS
        return {
            "median_s": median_s,
            "slowest_s": times[slowest],
            "slowest_rank": slowest,
            "slowest_host": self._hosts[slowest],
            "straggles": is_full and times[slowest] > self._factor * median_s,
        }
