# SPDX-License-Identifier: Apache-2.0
"""Two models' scores of one suite, paired item by item and summed up by cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megacpt.errors import CheckpointError
from megacpt.evaluate.items import Item, Scores

FEWEST_ITEMS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An item that one model has right and the other wrong, or scores otherwise."""

    id: str
    cluster: str
    base: float
    candidate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """N items in G clusters; an order of its own, which no result depends on."""

    base_N: NDArray[np.float64]
    candidate_N: NDArray[np.float64]
    cluster_N: NDArray[np.int64]
    """Number of the item's cluster."""
    sum_G: NDArray[np.float64]
    """Of the differences, candidate minus base."""
    size_G: NDArray[np.float64]
    """Items of the cluster."""

    @property
    def difference_N(self) -> NDArray[np.float64]:
        return self.candidate_N - self.base_N

    @property
    def estimate(self) -> float:
        """Mean difference of all items alike."""
        return float(self.sum_G.sum() / self.size_G.sum())

    @property
    def span(self) -> float:
        """The most that one item can move: 1 for scores from 0 to 1."""
        scores = np.concatenate([self.base_N, self.candidate_N])
        return max(1.0, float(scores.max() - scores.min()))

    @property
    def is_right_or_wrong(self) -> bool:
        """Every score is 0 or 1."""
        return bool(np.isin(self.base_N, (0, 1)).all() and np.isin(self.candidate_N, (0, 1)).all())

    @property
    def is_clustered(self) -> bool:
        return len(self.size_G) < len(self.base_N)


def pair(base: Scores, *, candidate: Scores) -> Pairs:
    """Raises CheckpointError for scores of other items, metrics or suites."""
    require_comparable(base, candidate=candidate)
    first = sorted(base.items, key=lambda item: item.id)
    second = sorted(candidate.items, key=lambda item: item.id)
    _, cluster_N = np.unique([item.cluster for item in first], return_inverse=True)
    return paired(_scores(first), candidate_N=_scores(second), cluster_N=cluster_N)


def paired(
    base_N: NDArray[np.float64],
    *,
    candidate_N: NDArray[np.float64],
    cluster_N: NDArray[np.int64],
) -> Pairs:
    """Pairs of scores that are in one order already."""
    return Pairs(
        base_N=base_N,
        candidate_N=candidate_N,
        cluster_N=cluster_N,
        sum_G=np.bincount(cluster_N, weights=candidate_N - base_N).astype(np.float64),
        size_G=np.bincount(cluster_N).astype(np.float64),
    )


def flips(base: Scores, *, candidate: Scores) -> tuple[Flip, ...]:
    """Items whose score has changed, the largest losses first."""
    now = {item.id: item.score for item in candidate.items}
    found = [
        Flip(id=item.id, cluster=item.cluster, base=item.score, candidate=now[item.id])
        for item in base.items
        if not math.isclose(item.score, now[item.id])
    ]
    return tuple(sorted(found, key=lambda flip: (flip.candidate - flip.base, flip.id)))


def require_comparable(base: Scores, *, candidate: Scores) -> None:
    for what, own, other in (
        ("suite", base.suite, candidate.suite),
        ("metric", base.metric, candidate.metric),
    ):
        if own != other:
            raise CheckpointError(
                f"scores of {what} {own} and {other} are not compared; measure both models with "
                "the same suite and metric."
            )
    known, found = base.clusters, candidate.clusters
    if known != found:
        first = min((known.keys() ^ found.keys()) or _moved(known, found=found))
        raise CheckpointError(
            f"suite {base.suite}: base and candidate were not measured on the same items in the "
            f"same clusters ({first} is the first that differs); run megacpt evaluate again."
        )
    if len(known) < FEWEST_ITEMS:
        raise CheckpointError(
            f"suite {base.suite} has {len(known)} items; a difference takes {FEWEST_ITEMS} at "
            "least. Raise the limit of the benchmark, or take it out."
        )


def _moved(known: dict[str, str], *, found: dict[str, str]) -> set[str]:
    return {name for name in known if known[name] != found[name]}


def _scores(items: Sequence[Item]) -> NDArray[np.float64]:
    return np.array([item.score for item in items], dtype=np.float64)
