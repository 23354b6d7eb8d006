# SPDX-License-Identifier: Apache-2.0
"""Which share of every global batch each source has, as exact fractions, and the counts they give.

Shares are fractions of a common denominator, so that one tenth of ten samples is one sample, in
every batch, for ever. Each batch holds floor or ceiling of share * batch size of each source, and
after every batch a source is less than one sample from its share (csrc/blend.h).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from megacpt import _C
from megacpt.config.sections import DataConfig
from megacpt.errors import ConfigError, Violation

LARGEST_DENOMINATOR = 1 << 40


def source_shares(config: DataConfig) -> dict[str, Fraction]:
    """Share of each source; the replay share first, the rest split by weight. They add up to 1."""
    if problems := _violations(config):
        raise ConfigError(problems)
    replay = config.replay
    replayed = _exact(replay.share) if replay else Fraction(0)
    weights = {
        name: _exact(source.weight)
        for name, source in config.sources.items()
        if not replay or name != replay.source
    }
    total = sum(weights.values())
    shares = {name: (1 - replayed) * weight / total for name, weight in weights.items()}
    if replay:
        shares[replay.source] = replayed
    return {name: shares[name] for name in config.sources}


def _exact(number: float) -> Fraction:
    """0.1 means one tenth, not the nearest binary number."""
    return Fraction(repr(float(number)))


def _violations(config: DataConfig) -> list[Violation]:
    found = []
    replay = config.replay
    if replay and replay.source not in config.sources:
        known = ", ".join(config.sources) or "none"
        found.append(_broken("replay.source", replay.source, "is no source", f"use one of {known}"))
    if replay and not 0 < replay.share < 1:
        remedy = "use a fraction like 0.1"
        found.append(_broken("replay.share", replay.share, "must be above 0 and below 1", remedy))
    names = [name for name in config.sources if not replay or name != replay.source]
    if not names:
        remedy = "name a token shard under data.sources besides the replay source"
        found.append(_broken("sources", len(config.sources), "holds nothing to train on", remedy))
    for name in names:
        weight = config.sources[name].weight
        if not (weight > 0 and math.isfinite(weight)):
            remedy = "give a number above 0 or take the source out"
            found.append(_broken(f"sources.{name}.weight", weight, "must be above 0", remedy))
    return found


def _broken(path: str, value: object, rule: str, remedy: str) -> Violation:
    return Violation(path=f"data.{path}", value=value, rule=rule, remedy=remedy)


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
class StepCounts:
    """Samples of each source before a step, and in it."""

    before: tuple[int, ...]
    counts: tuple[int, ...]


class BlendCursor:
    """Counts at any step. Moving forward is cheap; moving back starts again at step 0.

    Its whole state is (step, samples drawn of each source); every method gives the same result
    wherever the cursor was.
    """

    def __init__(self, shares: Mapping[str, Fraction], *, global_batch_size: int) -> None:
        parts, self._denominator = numerators(list(shares.values()))
        quotas = [divmod(part * global_batch_size, self._denominator) for part in parts]
        self._whole = [whole for whole, _ in quotas]
        self._remainders = [remainder for _, remainder in quotas]
        self._step = 0
        self._drawn = [0] * len(parts)
        self._lags = [0] * len(parts)
        self._counts: StepCounts | None = None

    def at(self, step: int) -> StepCounts:
        """Of global batch ``step``, the first being 0."""
        if step != self._step:
            self._move(step)
        if self._counts is None:
            self._counts = self._look_ahead()
        return self._counts

    def _move(self, step: int) -> None:
        if step < self._step:
            self._step = 0
            self._drawn = [0] * len(self._drawn)
            self._lags = [0] * len(self._lags)
        self._lags, self._drawn = self._advanced(step - self._step)
        self._step, self._counts = step, None

    def _advanced(self, num_steps: int) -> tuple[list[int], list[int]]:
        extras, lags = _C.advance_blend(
            self._remainders,
            denominator=self._denominator,
            lags=self._lags,
            num_steps=num_steps,
        )
        added = zip(self._drawn, self._whole, extras, strict=True)
        return lags, [drawn + whole * num_steps + extra for drawn, whole, extra in added]

    def _look_ahead(self) -> StepCounts:
        _, after = self._advanced(1)
        counts = tuple(b - a for a, b in zip(self._drawn, after, strict=True))
        return StepCounts(before=tuple(self._drawn), counts=counts)
