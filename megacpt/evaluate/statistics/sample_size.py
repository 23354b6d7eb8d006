# SPDX-License-Identifier: Apache-2.0
"""The number of items a suite must have so that a difference is seen with a stated chance."""

from __future__ import annotations

import math
from statistics import NormalDist

from megacpt.evaluate.statistics.difference import FEWEST_CLUSTERS, Difference

POWER = 0.8
"""Chance of a decision where the true difference is as far from the threshold as assumed."""


def items_needed(
    measured: Difference, *, distance: float, confidence: float, power: float = POWER
) -> int | None:
    """Items, in clusters of the same sizes, for an interval that ends before ``distance``.

    ``measured`` says how much an item varies, clusters (the design effect) included. None: the
    run-to-run noise alone is too large, however many items there are; or all are one cluster, which
    does not say how much another would vary.
    """
    if measured.num_clusters < FEWEST_CLUSTERS:
        return None
    quantile = NormalDist().inv_cdf
    wanted_error = distance / (quantile((1 + confidence) / 2) + quantile(power))
    left = wanted_error**2 - measured.noise.standard_error**2
    if left <= 0:
        return None
    per_item = measured.standard_error**2 * measured.num_items
    return math.ceil(per_item / left)
