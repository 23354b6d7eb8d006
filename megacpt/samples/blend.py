# SPDX-License-Identifier: Apache-2.0
"""How many samples of each source a global batch holds, from the exact shares of a segment.

Shares are fractions of a common denominator, so that one tenth of ten samples is one sample, in
every batch, for ever. Each batch holds floor or ceiling of share * batch size of each source, and
after every batch of the segment a source is less than one sample from its share (csrc/blend.h).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from megacpt import _C
from megacpt.plan.segments import Segment

LARGEST_DENOMINATOR = 1 << 40
RECENT_STEPS = 64
"""Remembered, for a reader ahead of the loop and a loop that asks what was drawn before."""


def numerators(shares: Sequence[Fraction]) -> tuple[list[int], int]:
    """The shares over one denominator of at most 2^40, their sum kept at 1.

    Exact unless the least common denominator is larger; then each is off by less than 2^-40.
    """
    denominator = math.lcm(*(share.denominator for share in shares))
    denominator = min(denominator, LARGEST_DENOMINATOR)
    scaled = [share * denominator for share in shares]
    rounded = [math.floor(x) for x in scaled]
    by_loss = sorted(range(len(shares)), key=lambda d: (rounded[d] - scaled[d], d))
    for d in by_loss[: denominator - sum(rounded)]:
        rounded[d] += 1
    return rounded, denominator


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendState:
    """All there is to know at a step to go on from it."""

    step: int
    """Counted from the start of the run, as all steps here."""
    drawn: tuple[int, ...]
    """Samples of each source since the segment began."""
    lags: tuple[int, ...]
    """What each source is owed, in units of 1 / common denominator; follows from ``drawn``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Samples of each source in the segment before a step, and in the step."""

    before: tuple[int, ...]
    counts: tuple[int, ...]


class BlendCursor:
    """Counts at any step of a segment; every call gives the same, wherever the cursor was.

    Moving forward costs O(sources) a step, recent steps nothing; going further back starts again
    at the segment's first step, or at ``known`` (a step and what was drawn before it) where that
    is not later. Threads may share it.
    """

    def __init__(self, segment: Segment, *, known: tuple[int, Sequence[int]] | None = None) -> None:
        parts, self._denominator = numerators(list(segment.shares.values()))
        quotas = [divmod(part * segment.global_batch_size, self._denominator) for part in parts]
        self._whole = [whole for whole, _ in quotas]
        self._remainders = [remainder for _, remainder in quotas]
        self._from_step = segment.from_step
        self._first = self._state_of(segment.from_step, drawn=[0] * len(parts))
        self._known = self._state_of(known[0], drawn=known[1]) if known else self._first
        self._state = self._known
        self._recent: dict[int, BlendState] = {}
        self._lock = threading.Lock()

    def _state_of(self, step: int, *, drawn: Sequence[int]) -> BlendState:
        steps = step - self._from_step
        extras = [n - whole * steps for n, whole in zip(drawn, self._whole, strict=True)]
        due = [remainder * steps for remainder in self._remainders]
        lags = tuple(d - self._denominator * n for d, n in zip(due, extras, strict=True))
        return BlendState(step=step, drawn=tuple(drawn), lags=lags)

    def state(self, step: int) -> BlendState:
        """State before the batch of ``step`` is drawn."""
        with self._lock:
            return self._recent.get(step) or self._move(step)

    def at(self, step: int) -> StepCounts:
        """Samples in the batch that follows ``step`` steps, and before it."""
        before, after = self.state(step).drawn, self.state(step + 1).drawn
        return StepCounts(
            before=before, counts=tuple(b - a for a, b in zip(before, after, strict=True))
        )

    def _move(self, step: int) -> BlendState:
        start = self._state
        if step < start.step:
            start = self._known if step >= self._known.step else self._first
        self._state = self._recent[step] = self._advanced(start, num_steps=step - start.step)
        if len(self._recent) > RECENT_STEPS:
            del self._recent[next(iter(self._recent))]
        return self._state

    def _advanced(self, state: BlendState, *, num_steps: int) -> BlendState:
        if not any(self._remainders):
            drawn = (
                n + whole * num_steps for n, whole in zip(state.drawn, self._whole, strict=True)
            )
            return replace(state, step=state.step + num_steps, drawn=tuple(drawn))
        extras, lags = _C.advance_blend(
            self._remainders,
            denominator=self._denominator,
            lags=state.lags,
            num_steps=num_steps,
        )
        added = zip(state.drawn, self._whole, extras, strict=True)
        return BlendState(
            step=state.step + num_steps,
            drawn=tuple(drawn + whole * num_steps + extra for drawn, whole, extra in added),
            lags=tuple(lags),
        )
