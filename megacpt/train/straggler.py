# SPDX-License-Identifier: Apache-2.0
"""Which rank holds the others up: each rank's own time a step, without its waits for others.

megatron-core's schedules call ``timers`` of the model's configuration around every forward and
backward pass of a microbatch; waits for other pipeline stages and for gradients to be reduced lie
outside. Inside remain the collectives of tensor, context and expert parallelism, whose ranks
therefore are slow together. The wait for data counts: it is the rank's own.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from megacpt.device.stopwatch import Stopwatch
from megacpt.monitor.metrics import RankTimes

COMPUTE = ("forward-compute", "backward-compute")
"""megatron-core's names of what counts."""
WINDOW_STEPS = 8
"""A rank's time is its median over so many steps: one slow step makes no straggler."""


class Timers:
    """What megatron-core calls as ``config.timers(name).start()``; adds up a rank's own work."""

    def __init__(self, stopwatch: Stopwatch, *, beat: Callable[[], None]) -> None:
        """``beat`` is called when a span of work begins: a sign of life."""
        self.stopwatch = stopwatch
        self._spans: dict[str, _Span] = {name: _Compute(stopwatch, beat=beat) for name in COMPUTE}
        self._ignored = _Span()

    def __call__(self, name: str, log_level: int | None = None) -> _Span:
        return self._spans.get(name, self._ignored)


class _Span:
    """A timer nobody reads: megatron-core has many."""

    def start(self, barrier: bool = False) -> None:
        """megatron-core asks for barriers here to time its phases; nothing waits for a timer."""

    def stop(self, barrier: bool = False) -> None:
        pass


class _Compute(_Span):
    def __init__(self, stopwatch: Stopwatch, *, beat: Callable[[], None]) -> None:
        self._stopwatch, self._beat = stopwatch, beat

    def start(self, barrier: bool = False) -> None:
        self._beat()
        self._stopwatch.start()

    def stop(self, barrier: bool = False) -> None:
        self._stopwatch.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What one small collective a step tells every rank."""

    grad_norm: float
    """The largest any rank has found (they agree but for a fault of the machine), or NaN."""
    compute_s_R: list[float]
    """Of every rank."""


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
