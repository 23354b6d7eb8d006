# SPDX-License-Identifier: Apache-2.0
"""The difference of two models on a suite, with an interval from a paired bootstrap over clusters.

Whole clusters are drawn again: items of one document or subject go up and down together. A
percentile interval of few clusters is too narrow, so each drawn deviation is widened by
sqrt(G / chi2(G - 1)), which turns normal deviations into those of Student's t with G - 1 degrees
of freedom (the expanded percentile interval: Hesterberg, https://arxiv.org/abs/1411.5279, 4.1,
for all levels at once). G is the effective number of clusters, (sum n)^2 / sum n^2 for sizes n:
few large ones count for most (Carter, Schnepel and Steigerwald, 2017).

Items that did not flip say nothing of how often they would: without any flip a bootstrap is sure of
everything. So a Laplace deviation of one more flip's variance is added, half of it a gain and half
a loss, as Agresti and Min (2005) add to paired proportions; alone it is within 2.1 items 95 times
of a hundred. Where flips are many it is lost among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from megacpt.evaluate.statistics.noise import NO_NOISE, Noise
from megacpt.evaluate.statistics.pairing import Pairs

_Array: TypeAlias = NDArray[np.float64]
RESAMPLES = 10_000
"""The ends of a 95 % interval are then known to 2.7 % of a standard error."""
FEWEST_CLUSTERS = 2
"""One says nothing of how much another would differ from it."""
_TINY = 1e-12
"""Chi-squared of hardly more than one effective cluster may round to 0."""
_CHUNK = 2_000_000
"""Counts held at a time: 16 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Candidate minus base, in units of the score."""

    estimate: float
    standard_error: float
    """Of the draw of items, clusters kept together; without run-to-run noise."""
    design_effect: float
    """Its square over that of items that stand alone: 2 halves the number of items."""
    num_items: int
    num_clusters: int
    noise: Noise
    plausible_B: NDArray[np.float64]
    """Values that the true difference may have, each as likely as the other; sorted."""

    def interval(self, confidence: float) -> Interval:
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.plausible_B, [tail, 1 - tail])
        return Interval(low=float(low), high=float(high))

    def p_at_most(self, threshold: float) -> float:
        """One-sided p-value of: the true difference is ``threshold`` or less."""
        return self._p(int(np.searchsorted(self.plausible_B, threshold, side="right")))

    def p_at_least(self, threshold: float) -> float:
        """One-sided p-value of: the true difference is ``threshold`` or more."""
        below = int(np.searchsorted(self.plausible_B, threshold, side="left"))
        return self._p(len(self.plausible_B) - below)

    def p_of_none(self) -> float:
        """Two-sided p-value of: there is no difference."""
        return min(1.0, 2 * min(self.p_at_most(0.0), self.p_at_least(0.0)))

    def _p(self, count: int) -> float:
        return (count + 1) / (len(self.plausible_B) + 1)


def difference(
    pairs: Pairs, *, seed: int, noise: Noise = NO_NOISE, resamples: int = RESAMPLES
) -> Difference:
    """The same for the same seed, whatever the order of the items."""
    generator = np.random.default_rng(seed)
    standard_error = cluster_error(pairs)
    alone = item_error(pairs)
    deviation_B = _deviations(pairs, generator=generator, resamples=resamples)
    deviation_B += _unseen_flips(pairs, generator=generator, resamples=resamples)
    deviation_B += noise.draw(generator, count=resamples)
    plausible_B = np.clip(pairs.estimate + deviation_B, -pairs.span, pairs.span)
    return Difference(
        estimate=pairs.estimate,
        standard_error=math.hypot(standard_error, unseen_error(pairs)),
        design_effect=(standard_error / alone) ** 2 if alone > 0 else 1.0,
        num_items=len(pairs.base_N),
        num_clusters=len(pairs.size_G),
        noise=noise,
        plausible_B=np.sort(plausible_B),
    )


def cluster_error(pairs: Pairs) -> float:
    """Standard error of the mean difference where clusters are drawn; 0 of a single one."""
    clusters = len(pairs.size_G)
    if clusters < FEWEST_CLUSTERS:
        return 0.0
    residual_G = pairs.sum_G - pairs.estimate * pairs.size_G
    scale = clusters / (clusters - 1) / pairs.size_G.sum() ** 2
    return math.sqrt(scale * float(residual_G @ residual_G))


def item_error(pairs: Pairs) -> float:
    """The same where each item stands alone."""
    return float(pairs.difference_N.std(ddof=1)) / math.sqrt(len(pairs.base_N))


def effective_clusters(size_G: NDArray[np.float64]) -> float:
    return float(size_G.sum() ** 2 / (size_G @ size_G))


def _deviations(
    pairs: Pairs, *, generator: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    effective = effective_clusters(pairs.size_G)
    if effective <= 1:
        # One cluster says nothing of others: any difference is plausible.
        return generator.uniform(-2 * pairs.span, 2 * pairs.span, resamples)
    resampled_B = _resampled(pairs, generator=generator, resamples=resamples)
    chi2_B = np.maximum(generator.chisquare(effective - 1, resamples), _TINY)
    widened_B = np.sqrt(effective / chi2_B)
    return (resampled_B - pairs.estimate) * widened_B


def _resampled(
    pairs: Pairs, *, generator: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Mean differences of suites whose clusters are drawn from this one's.

    Clusters of one sum and size are alike, so their numbers are drawn, not they: three kinds where
    each item stands alone and is right or wrong, however many items there are. Clusters that mostly
    have a kind of their own, as of scores without steps, are drawn themselves: four times as fast.
    """
    clusters = len(pairs.size_G)
    kinds_K2, count_K = np.unique(
        np.stack([pairs.sum_G, pairs.size_G], axis=1), axis=0, return_counts=True
    )
    if len(count_K) * 4 < clusters:
        width, totals = len(count_K), partial(_of_numbers, kinds_K2, count_K=count_K)
    else:
        # Sorted by np.unique, so that the order of the items changes nothing.
        width, totals = clusters, partial(_of_clusters, np.repeat(kinds_K2, count_K, axis=0).T)
    rows = max(1, _CHUNK // width)
    means = []
    for first in range(0, resamples, rows):
        total_R2 = totals(rows=min(rows, resamples - first), generator=generator)
        means.append(total_R2[:, 0] / total_R2[:, 1])
    return np.concatenate(means)


def _of_numbers(
    kinds_K2: _Array, *, count_K: NDArray[np.int64], rows: int, generator: np.random.Generator
) -> _Array:
    """Totals of sum and size, R x 2, of as many clusters as there are."""
    clusters = int(count_K.sum())
    drawn_RK = generator.multinomial(clusters, count_K / clusters, size=rows)
    return drawn_RK.astype(np.float64) @ kinds_K2


def _of_clusters(each_2G: _Array, *, rows: int, generator: np.random.Generator) -> _Array:
    clusters = each_2G.shape[1]
    drawn_RG = generator.integers(clusters, size=(rows, clusters), dtype=np.int32)
    return np.stack([of_all_G[drawn_RG].sum(axis=1) for of_all_G in each_2G], axis=1)


def _unseen_flips(
    pairs: Pairs, *, generator: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    return generator.laplace(0.0, unseen_error(pairs) / math.sqrt(2), resamples)


def unseen_error(pairs: Pairs) -> float:
    """Standard error of one flip more. Its size is that of the flips there are, and the whole span
    of the scores while there are none."""
    moved = pairs.difference_N[pairs.difference_N != 0]
    mean_square = (pairs.span**2 + float(moved @ moved)) / (1 + len(moved))
    return math.sqrt(mean_square) / len(pairs.base_N)
