# SPDX-License-Identifier: Apache-2.0
"""From values of many nodes, or of pairs of them, to the nodes that are at fault.

A fault that more than half of the nodes share is no node's own: the setup has it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """``values``: node -> what it has, of those unlike the ``usual`` value."""

    usual: str
    values: dict[int, str]


def odd_ones(values: Mapping[int, str]) -> Odd:
    """Nodes without the most frequent value; of values equally frequent the first node's."""
    counts = Counter(values.values())
    first = values[min(values)]
    usual = max(counts, key=lambda value: (counts[value], value == first))
    return Odd(usual=usual, values={n: v for n, v in values.items() if v != usual})


def is_common(num_bad: int, *, num_nodes: int) -> bool:
    return 2 * num_bad > num_nodes


def slow_pairs(rates: Mapping[Pair, float], *, fraction: float, least: float) -> dict[Pair, float]:
    """Pair -> the rate it should have had.

    The usual rate is the median node's best: of three nodes with one bad, two pairs of three are
    slow, but only the bad node has no fast one. Two nodes have nothing to be compared with.
    """
    best: dict[int, float] = {}
    for pair, rate in rates.items():
        for node in pair:
            best[node] = max(rate, best.get(node, 0.0))
    usual = statistics.median(best.values()) if len(best) > 2 else 0.0
    limit = max(fraction * usual, least)
    return {pair: limit for pair, rate in rates.items() if rate < limit}


def nodes_of_bad_pairs(bad: Iterable[Pair], *, measured: Iterable[Pair]) -> list[int]:
    """Nodes of which more than half of the pairs are bad, the worst first.

    A node that is found takes its pairs with it, so that it drags no other along; of two that are
    equally bad it is the later one.
    """
    left, bad_left = set(measured), set(bad)
    found: list[int] = []
    while bad_left:
        counts = Counter(node for pair in bad_left for node in pair)
        worst = max(counts, key=lambda node: (counts[node], node))
        of_it = [pair for pair in left if worst in pair]
        if 2 * sum(pair in bad_left for pair in of_it) <= len(of_it):
            return found
        found.append(worst)
        left -= set(of_it)
        bad_left -= set(of_it)
    return found


def skews(ahead_s: Mapping[int, float]) -> dict[int, float]:
    """How far each clock is from the others', of two from the first's."""
    values = sorted(ahead_s.values())
    usual = statistics.median(values) if len(values) > 2 else ahead_s[min(ahead_s)]
    return {node: value - usual for node, value in ahead_s.items()}
