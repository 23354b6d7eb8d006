# SPDX-License-Identifier: Apache-2.0
"""From values of many nodes, or of pairs of them, to the nodes that are at fault.

A fault that more than half of the nodes share is no node's own: the setup has it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


def rounds(num_nodes: int) -> list[list[Pair]]:
    """All pairs, each once, in rounds in which no node has two: one sits, the others walk round.

    See https://en.wikipedia.org/wiki/Round-robin_tournament#Circle_method
    """
    seats: list[int | None] = [*range(num_nodes), *([None] if num_nodes % 2 else [])]
    played = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        facing = zip(seats[:half], reversed(seats[half:]), strict=True)
        played.append(
            [(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None]
        )
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return played


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


def blamed(bad: Iterable[Pair], *, measured: Iterable[Pair], innocent: int = 0) -> list[int]:
    """Nodes of which more than half of the pairs are bad, the worst first.

    A blamed node takes its pairs with it, so that it drags no other along. ``innocent``: not
    blamed where it is one of two that are equally bad.
    """
    left, bad_left = set(measured), set(bad)
    found: list[int] = []
    while bad_left:
        worst = _worst(bad_left, innocent=innocent)
        of_it = [pair for pair in left if worst in pair]
        if 2 * sum(pair in bad_left for pair in of_it) <= len(of_it):
            return found
        found.append(worst)
        left -= set(of_it)
        bad_left -= set(of_it)
    return found


def _worst(bad: Iterable[Pair], *, innocent: int) -> int:
    counts = Counter(node for pair in bad for node in pair)
    return max(counts, key=lambda node: (counts[node], node != innocent, node))


def skews(ahead_s: Mapping[int, float]) -> dict[int, float]:
    """How far each clock is from the others', of two from the first's."""
    values = sorted(ahead_s.values())
    usual = statistics.median(values) if len(values) > 2 else ahead_s[min(ahead_s)]
    return {node: value - usual for node, value in ahead_s.items()}


def expand_hosts(node_list: str) -> list[str]:
    """``gpu[07-09,12],cpu1`` -> gpu07, gpu08, gpu09, gpu12, cpu1: how Slurm writes hosts."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", node_list)
    return [host for part in parts for host in _expand(part)]


def _expand(part: str) -> Sequence[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        return [part]
    head, tail = part[: found.start()], part[found.end() :]
    hosts: list[str] = []
    for piece in found.group(1).split(","):
        low, _, high = piece.partition("-")
        numbers = range(int(low), int(high or low) + 1)
        hosts += [f"{head}{n:0{len(low)}d}{end}" for n in numbers for end in _expand(tail)]
    return hosts
