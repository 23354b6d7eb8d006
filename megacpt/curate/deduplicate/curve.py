# SPDX-License-Identifier: Apache-2.0
"""Bands and rows of MinHash values, and which pairs of documents they find: the S-curve.

Of two documents that have the share s of their shingles in common, each MinHash value is equal with
probability s. They are compared if all rows of a band are: with probability 1 - (1 - s^rows)^bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from megacpt.curate.deduplicate.settings import NearConfig
from megacpt.errors import ConfigError

PERMUTATIONS_MAX = 256
MARGIN = 0.05
"""Above the threshold, where ``recall`` is promised."""
HALF_ALIKE = 100
"""Other documents of which one has half the threshold in common with it, as templates and licences
have; each that is compared in vain costs time."""
PERMUTATIONS_A_PAIR = 100
"""That take the time of one comparison, of documents of 300 words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    bands: int
    rows: int

    @property
    def permutations(self) -> int:
        return self.bands * self.rows

    def probability(self, similarity: float) -> float:
        """That a pair is compared."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.bands

    def table(self) -> list[tuple[float, float]]:
        """Similarities from 0.05 to 1, and the probability of each."""
        similarities = [n / 20 for n in range(1, 21)]
        return [(similarity, self.probability(similarity)) for similarity in similarities]


def promised(threshold: float) -> float:
    """The similarity from which on ``recall`` holds: above 0.9 it is halfway to 1."""
    return threshold + min(MARGIN, (1.0 - threshold) / 2)


def choose_curve(near: NearConfig) -> Curve:
    """The cheapest: permutations, and what is compared in vain."""
    found = list(_reaching(near))
    if not found:
        highest = Curve(bands=PERMUTATIONS_MAX, rows=1).probability(promised(near.threshold))
        raise ConfigError(
            f"deduplicate.near.recall={near.recall} cannot be reached at threshold="
            f"{near.threshold} with {PERMUTATIONS_MAX} permutations; use {_below(highest)} or "
            "less, or a higher threshold."
        )
    return min(found, key=lambda curve: (_cost(curve, threshold=near.threshold), curve.rows))


def _reaching(near: NearConfig) -> Iterator[Curve]:
    """For each number of rows the fewest bands that do."""
    similarity = promised(near.threshold)
    for rows in range(1, PERMUTATIONS_MAX + 1):
        curves = (Curve(bands=n, rows=rows) for n in range(1, PERMUTATIONS_MAX // rows + 1))
        enough = (curve for curve in curves if curve.probability(similarity) >= near.recall)
        yield from islice(enough, 1)


def _cost(curve: Curve, *, threshold: float) -> float:
    in_vain = HALF_ALIKE * curve.probability(threshold / 2)
    return curve.permutations + PERMUTATIONS_A_PAIR * in_vain


def _below(share: float) -> float:
    return math.floor(share * 1e4) / 1e4
