# SPDX-License-Identifier: Apache-2.0
"""Simulated suites whose true difference is known, as scores right or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacpt.evaluate.items import Item, Scores
from megacpt.evaluate.statistics.pairing import Pairs, paired


@dataclass(frozen=True, kw_only=True)
class Truth:
    """``flips``: share of items whose score changes. ``alike``: correlation inside a cluster."""

    clusters: int
    size: int = 1
    flips: float
    difference: float = 0.0
    alike: float = 0.0
    uneven: bool = False

    def draw(self, generator: np.random.Generator) -> Pairs:
        """One suite of this truth: each cluster has its own shares of gained and lost items."""
        size_G = self._sizes(generator)
        gained, lost = (self.flips + self.difference) / 2, (self.flips - self.difference) / 2
        share_G3 = np.tile([gained, lost, 1 - self.flips], (self.clusters, 1))
        if self.alike:
            concentration = 1 / self.alike - 1
            share_G3 = generator.dirichlet(share_G3[0] * concentration, size=self.clusters)
        cluster_N = np.repeat(np.arange(self.clusters), size_G)
        draw_N = generator.random(len(cluster_N))
        bound_N3 = share_G3.cumsum(axis=1)[cluster_N]
        change_N = np.where(draw_N < bound_N3[:, 0], 1, np.where(draw_N < bound_N3[:, 1], -1, 0))
        stays_N = generator.random(len(cluster_N)) < 0.5
        base_N = np.where(change_N == 0, stays_N, change_N < 0).astype(np.float64)
        return paired(base_N, candidate_N=base_N + change_N, cluster_N=cluster_N)

    def _sizes(self, generator: np.random.Generator) -> np.ndarray:
        if not self.uneven:
            return np.full(self.clusters, self.size)
        sizes = generator.lognormal(np.log(self.size) - 0.32, 0.8, self.clusters)
        return np.maximum(1, sizes).astype(int)


def scores(
    values: np.ndarray,
    *,
    suite: str = "law",
    metric: str = "acc",
    clusters: np.ndarray | None = None,
) -> Scores:
    """Item n has the id and, where none is given, the cluster ``n``."""
    named = np.arange(len(values)) if clusters is None else clusters
    items = tuple(
        Item(id=f"{n:06d}", cluster=str(cluster), score=float(value))
        for n, (value, cluster) in enumerate(zip(values, named, strict=True))
    )
    return Scores(suite=suite, metric=metric, model="abc", items=items)


def scores_of(pairs: Pairs, *, suite: str = "law") -> tuple[Scores, Scores]:
    """Base and candidate."""
    return (
        scores(pairs.base_N, suite=suite, clusters=pairs.cluster_N),
        scores(pairs.candidate_N, suite=suite, clusters=pairs.cluster_N),
    )
