# SPDX-License-Identifier: Apache-2.0
"""Which parts of suites a text holds, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from megacpt.corpus.not_learned import united
from megacpt.curate.decontaminate.items import ItemPart, ItemSuite, normalised
from megacpt.curate.decontaminate.settings import DecontaminateConfig
from megacpt.curate.decontaminate.windows import (
    Evidence,
    Ints,
    count_searched,
    differs,
    evidence_of,
    parts_of,
)

NEAR_CHARS = 400
"""Before and after the shortest questions, in which their answer must be."""
ROUNDING = 1e-9


class Found(NamedTuple):
    """A part of an item that is in a text."""

    suite: int
    item: int
    part: ItemPart
    share: float
    """Of the weight of its windows."""
    spans: tuple[tuple[int, int], ...]
    """Characters, in order and apart."""


class Search:
    """Several threads may call it at once."""

    def __init__(self, suites: Sequence[ItemSuite], *, settings: DecontaminateConfig) -> None:
        self._suites = suites
        self._parts, self.counts = parts_of(suites, settings=settings)
        self._evidence = evidence_of(self._parts, settings=settings)
        count_searched(self.counts, parts=self._parts, evidence=self._evidence, suites=suites)

    def __call__(self, texts: list[str]) -> dict[int, list[Found]]:
        """By number of text, of those that hold any; in the order of suites and parts."""
        hits = self._evidence.index.find(texts)
        if not len(hits.documents):
            return {}
        row, pair = _expanded(hits.windows, bounds=self._evidence.bounds)
        text, part = hits.documents[row], self._evidence.parts[pair]
        found: dict[int, dict[tuple[int, int, ItemPart], Found]] = {}
        for rows in _found_rows(text, part=part, pair=pair, evidence=self._evidence):
            number, at = int(text[rows[0]]), row[rows]
            weight = self._evidence.weights[np.unique(pair[rows])].sum()
            windows = zip(hits.starts[at].tolist(), hits.stops[at].tolist(), strict=True)
            spans = tuple(united(windows))
            made = self._made(int(part[rows[0]]), weight=float(weight), spans=spans)
            if self._is_answered(int(part[rows[0]]), spans=spans, text=texts[number]):
                parts = found.setdefault(number, {})
                parts[made[:3]] = _both(made, other=parts.get(made[:3], made))
        return {number: sorted(parts.values()) for number, parts in sorted(found.items())}

    def _made(self, number: int, *, weight: float, spans: tuple[tuple[int, int], ...]) -> Found:
        part = self._parts[number]
        share = round(weight / float(self._evidence.total[number]), 4)
        return Found(part.suite, part.item, part.words.part, share, spans)

    def _is_answered(self, number: int, *, spans: Sequence[tuple[int, int]], text: str) -> bool:
        """Whether an answer of one of the shortest questions, if it has any, is near it."""
        part = self._parts[number]
        answers = self._suites[part.suite].items[part.item].answer
        if not (part.rule.is_whole and answers):
            return True
        near = [
            text[max(start - NEAR_CHARS, 0) : start] + "\n" + text[end : end + NEAR_CHARS]
            for start, end in spans
        ]
        words = normalised([*near, *answers])
        places = "\n".join(f" {place} " for place in words[: len(near)])
        return any(f" {answer} " in places for answer in words[len(near) :])


def _expanded(windows: Ints, *, bounds: Ints) -> tuple[Ints, Ints]:
    """For each part that a window is of: the row of the window, and the number of the pair."""
    counts = bounds[windows + 1] - bounds[windows]
    row = np.repeat(np.arange(len(windows)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, bounds[windows][row] + within


def _found_rows(text: Ints, *, part: Ints, pair: Ints, evidence: Evidence) -> Iterator[Ints]:
    """Rows of each part that a text has enough of, in the order of the text."""
    order = np.lexsort((pair, part, text))  # Stable: equal windows stay as they come.
    is_new = differs(text[order]) | differs(part[order])
    group = np.cumsum(is_new) - 1
    counted = is_new | differs(pair[order])  # A window that is there twice counts once.
    weight = np.bincount(group, weights=evidence.weights[pair[order]] * counted)
    is_found = weight >= evidence.needed[part[order][is_new]] - ROUNDING
    starts = np.append(np.flatnonzero(is_new), len(order))
    for number in np.flatnonzero(is_found).tolist():
        yield np.sort(order[starts[number] : starts[number + 1]])


def _both(found: Found, *, other: Found) -> Found:
    """Of a part that was found by two rules, or in two texts of it."""
    spans = tuple(united([*found.spans, *other.spans]))
    return found._replace(share=max(found.share, other.share), spans=spans)
