# SPDX-License-Identifier: Apache-2.0
"""What of suites is in a text, once more from the rules of docs/curation.md: sets of tuples of
words, and Python's numbers, instead of an index and arrays."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from megacpt.curate.decontaminate.items import ItemPart, SuiteItem
from tests.curate.twins import words as words_of

Row = tuple[str, ...]
Key = tuple[int, int, str]


def words(text: str) -> Row:
    return tuple(word.text for word in words_of(text))


def rows(text: Row, *, length: int) -> set[Row]:
    """All that have more than a few different words."""
    found = {text[n : n + length] for n in range(len(text) - length + 1)}
    return {row for row in found if len(set(row)) >= length / 3}


def lengths_for(part: ItemPart, *, count: int, lengths: Sequence[int]) -> list[int]:
    """Of windows; a long part has two."""
    long, short, whole = lengths
    if count >= long:
        return [long, short]
    if count >= short:
        return [short]
    return [whole] if count >= whole and part is ItemPart.question else []


def distinct(items: Sequence[SuiteItem]) -> Iterator[tuple[int, list[tuple[ItemPart, Row]]]]:
    known = []
    for number, item in enumerate(items):
        parts = [(part, words(text)) for part, text in item.parts()]
        if parts not in known:
            known.append(parts)
            yield number, parts


class Twin:
    def __init__(
        self,
        suites: Sequence[Sequence[SuiteItem]],
        *,
        lengths: Sequence[int] = (13, 8, 5),
        share: float = 0.5,
        edited: float = 0.2,
        common: int = 10,
    ) -> None:
        self._lengths, self._share, self._edited = lengths, share, edited
        self._parts: list[tuple[Key, dict[Row, float], int, bool]] = []
        for suite, items in enumerate(suites):
            parts = [
                ((suite, item, part.name), rows(own, length=n), n, len(own) >= lengths[0])
                for item, of_item in distinct(items)
                for part, own in of_item
                for n in lengths_for(part, count=len(own), lengths=lengths)
            ]
            owners = defaultdict(set)
            for (_, item, _), windows, *_ in parts:
                for window in windows:
                    owners[window].add(item)
            most = min(len({key[1] for key, *_ in parts}), common + 1)
            weights = {
                window: 1.0 if most == 1 else max(0.0, 1 - math.log(len(owned), most))
                for window, owned in owners.items()
            }
            self._parts += [(key, {w: weights[w] for w in own}, *rest) for key, own, *rest in parts]

    def __call__(self, text: str) -> dict[Key, float]:
        """The parts that a text holds, and shares; of the shortest questions also those whose
        answer is not near."""
        inside = {length: rows(words(text), length=length) for length in self._lengths}
        found: dict[Key, float] = {}
        for key, weights, length, is_long in self._parts:
            total = sum(weights.values())
            there = sum(weight for window, weight in weights.items() if window in inside[length])
            if length == self._lengths[0]:
                needed = min(total * self._share, 1.0)
            elif is_long:
                needed = max(total * self._edited, 3.0)
            else:
                needed = total if length == self._lengths[-1] else total * self._share
            if total >= 0.25 and there >= needed - 1e-9:
                found[key] = max(there / total, found.get(key, 0))
        return found
