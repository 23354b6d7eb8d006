# SPDX-License-Identifier: Apache-2.0
"""The timers that megatron-core calls, reduced to one sum: a rank's own work in a step.

megatron-core's schedules call ``timers`` of the model's configuration around every forward and
backward pass of a microbatch; waits for other pipeline stages and for gradients to be reduced lie
outside. Inside remain the collectives of tensor, context and expert parallelism, whose ranks
therefore are slow together.
"""

from __future__ import annotations

from collections.abc import Callable

from megacpt.device.stopwatch import Stopwatch

COMPUTE = ("forward-compute", "backward-compute")
"""megatron-core's names of what counts."""


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
