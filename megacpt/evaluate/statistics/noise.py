# SPDX-License-Identifier: Apache-2.0
"""Run-to-run noise: what other seeds or orders of the prompt do to the score of one model.

A measurement shifts all items together (another choice of examples in the prompt) and each item by
itself (sampling). The second is in the items' differences already, and so in the bootstrap; the
first no number of items shows. It is the variance between repeated measurements beyond what the
items' own would give: two-way analysis of variance, items by repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megacpt.evaluate.items import Scores
from megacpt.evaluate.statistics.pairing import require_comparable

FEWEST_REPEATS = 2
"""Fewer have no variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """``standard_error``: of a difference between two measurements, however many their items."""

    standard_error: float
    repeats: int
    """Measurements of the base that it was estimated from."""

    def draw(self, generator: np.random.Generator, *, count: int) -> NDArray[np.float64]:
        """Deviations, of Student's t: few repeats know their own spread badly."""
        if self.repeats < FEWEST_REPEATS:
            return np.zeros(count)
        return self.standard_error * generator.standard_t(self.repeats - 1, count)


NO_NOISE = Noise(standard_error=0.0, repeats=1)


def noise_of(measured: Sequence[Scores]) -> Noise:
    """``measured``: the base, again and again; one says nothing."""
    if len(measured) < FEWEST_REPEATS:
        return NO_NOISE
    first, *others = measured
    for other in others:
        require_comparable(first, candidate=other)
    rows = [sorted(scores.items, key=lambda item: item.id) for scores in measured]
    return noise_between(np.array([[item.score for item in row] for row in rows]))


def noise_between(score_RN: NDArray[np.float64]) -> Noise:
    """R repeats of N items."""
    repeats, items = score_RN.shape
    mean_R = score_RN.mean(axis=1, keepdims=True)
    residual_RN = score_RN - mean_R - score_RN.mean(axis=0) + score_RN.mean()
    between = items * float(mean_R.var(ddof=1))
    within = float((residual_RN**2).sum()) / ((repeats - 1) * (items - 1))
    shared = max(0.0, between - within) / items
    # A difference has the noise of two measurements: of the base and of the candidate.
    return Noise(standard_error=math.sqrt(2 * shared), repeats=repeats)
