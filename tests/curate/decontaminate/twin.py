# SPDX-License-Identifier: Apache-2.0
"""What of suites is in a text, once more from the rules of docs/curation.md: sets of tuples of
words, and Python's numbers, instead of an index and arrays."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from megacpt.curate.decontaminate.items import Item, Part
from tests.curate.twins import words as words_of

Row = tuple[str, ...]
Key = tuple[int, int, str]


def words(text: str) -> Row:
    return tuple(word.text for word in words_of(text))


def rows(text: Row, *, length: int) -> set[Row]:
    return {text[n : n + length] for n in range(len(text) - length + 1)}


def length_for(part: Part, *, count: int, lengths: Sequence[int]) -> int | None:
    for length in lengths:
        if count >= length and (length != lengths[-1] or part is Part.question):
            return length
    return None


def distinct(items: Sequence[Item]) -> Iterator[tuple[int, list[tuple[Part, Row]]]]:
    known = []
    for number, item in enumerate(items):
        parts = [(part, words(text)) for part, text in item.parts()]
        if parts not in known:
            known.append(parts)
            yield number, parts


def held(
    text: str,
    *,
    suites: Sequence[Sequence[Item]],
    lengths: Sequence[int] = (13, 8, 5),
    share: float = 0.5,
    common: int = 10,
) -> dict[Key, float]:
    """The parts that a text holds (without the answers near the shortest questions), and shares."""
    inside = {length: rows(words(text), length=length) for length in lengths}
    found: dict[Key, float] = {}
    for suite, items in enumerate(suites):
        parts = [
            (item, part, rows(own, length=length), length)
            for item, of_item in distinct(items)
            for part, own in of_item
            if (length := length_for(part, count=len(own), lengths=lengths))
        ]
        owners = defaultdict(set)
        for item, _, windows, _ in parts:
            for window in windows:
                owners[window].add(item)
        most = min(len({item for item, *_ in parts}), common + 1)

        def weight(window: Row, owners=owners, most=most) -> float:  # type: ignore[no-untyped-def]
            return 1.0 if most == 1 else max(0.0, 1 - math.log(len(owners[window]), most))

        for item, part, windows, length in parts:
            total = sum(map(weight, windows))
            there = sum(map(weight, windows & inside[length]))
            needed = total if length == lengths[-1] else total * share
            needed = min(needed, 1.0) if length == lengths[0] else needed
            if total >= 0.25 and there >= needed - 1e-9:
                found[suite, item, part.name] = max(
                    there / total, found.get((suite, item, part.name), 0)
                )
    return found
