# SPDX-License-Identifier: Apache-2.0
"""The windows of words by which the parts of suites are found, and what each is evidence of.

Long parts are looked for in long windows, of which one that is its own is enough, and in short
ones, of which a share must be found, for words may have been changed; short parts in short windows;
the shortest questions as a whole. A window weighs 1 if one item of its suite has it, and less with
each that has it too.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.curate.decontaminate.items import ItemPart, ItemSuite, Words
from megacpt.curate.decontaminate.settings import DecontaminateConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TOO_COMMON = 0.25
"""Parts whose windows weigh less in all are not looked for: many items share them."""

EDITED_LEAST = 3.0
"""Three windows of 8 words are 10 words in a row, or more."""
DIFFERENT = 3
"""Of so many words of a window one at least is another than those before."""


class WindowRule(NamedTuple):
    """How parts of ``fewest`` to ``below`` words, the latter excluded, are found."""

    words: int
    """Of a window."""
    fewest: int
    below: float
    share: float
    """Of the weight of a part's windows."""
    least: float = 0.0
    """Weight that must be there, whatever the share."""
    enough: float = np.inf
    """Weight that will do, whatever the share."""
    is_whole: bool = False
    """For questions only, with the answer near."""


def rules_of(settings: DecontaminateConfig) -> tuple[WindowRule, ...]:
    long, short, whole = settings.words, settings.short_words, settings.whole_words
    share, edited = settings.share, settings.edited_share
    return (
        WindowRule(long, long, np.inf, share=share, enough=1.0),
        WindowRule(short, long, np.inf, share=edited, least=EDITED_LEAST),
        WindowRule(short, short, long, share=share),
        WindowRule(whole, whole, min(short, long), share=1.0, is_whole=True),
    )


@dataclass(slots=True, kw_only=True)
class SuiteCount:
    """What of a suite is looked for."""

    items: int = 0
    repeated: int = 0
    """Items whose words are those of another."""
    searched: int = 0
    """Items of which a part is looked for."""
    too_short: int = 0
    """Parts that are not."""
    too_common: int = 0


class ListedPart(NamedTuple):
    """A part that may be looked for."""

    suite: int
    item: int
    words: Words
    rule: WindowRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Of each window, by the index's number for it, the parts that have it, and what it weighs for
    each: ``bounds[number] .. bounds[number + 1] - 1``."""

    index: _C.NgramIndex
    bounds: Ints
    parts: Ints
    weights: Floats
    needed: Floats
    """Of each part the weight from which on it is found; infinite: it is not looked for."""
    total: Floats
    """Of each part the weight of all its windows."""


def parts_of(
    suites: Sequence[ItemSuite], *, settings: DecontaminateConfig
) -> tuple[list[ListedPart], dict[str, SuiteCount]]:
    rules = rules_of(settings)
    counts = {suite.name: SuiteCount(items=len(suite.items)) for suite in suites}
    parts = [
        part
        for number, suite in enumerate(suites)
        for part in _listed(suite, number=number, rules=rules, count=counts[suite.name])
    ]
    return parts, counts


def _listed(
    suite: ItemSuite, *, number: int, rules: Sequence[WindowRule], count: SuiteCount
) -> Iterator[ListedPart]:
    """Of items with the same words the first."""
    known: set[tuple[Words, ...]] = set()
    for item, words in enumerate(suite.words):
        if words in known:
            count.repeated += 1
            continue
        known.add(words)
        for part in dict.fromkeys(words):
            mine = [rule for rule in rules if _is_for(rule, words=part)]
            count.too_short += not mine
            yield from (ListedPart(number, item, part, rule) for rule in mine)


def _is_for(rule: WindowRule, *, words: Words) -> bool:
    """An answer or option that is short is found everywhere."""
    fits = max(rule.fewest, rule.words) <= words.length < rule.below
    return fits and (words.part is ItemPart.question or not rule.is_whole)


def evidence_of(parts: Sequence[ListedPart], *, settings: DecontaminateConfig) -> Evidence:
    windows = _windows(parts)
    index = _C.NgramIndex([part.words.text for part in parts], windows=windows)
    of_part, num_windows = windows[:, 0].copy(), len(windows)
    del windows  # It is large.
    number = index.first_equal
    order = np.lexsort((of_part, number))
    number, of_part = number[order], of_part[order]
    is_new = differs(number) | differs(of_part)  # A part may repeat a window.
    number, of_part = number[is_new], of_part[is_new]
    weights = _weights(number, of_part=of_part, parts=parts, settings=settings)
    total: Floats = np.bincount(of_part, weights=weights, minlength=len(parts)).astype(np.float64)
    return Evidence(
        index=index,
        bounds=np.searchsorted(number, np.arange(num_windows + 1)),
        parts=of_part,
        weights=weights,
        needed=_needed(total, parts=parts),
        total=total,
    )


def _windows(parts: Sequence[ListedPart]) -> Ints:
    """Of each the part's number, its first word and its number of words. Windows of few different
    words, such as rows of numbers, are in many texts."""
    rows = array("q")
    for number, part in enumerate(parts):
        words, length = part.words.text.split(" "), part.rule.words
        for first in range(len(words) - length + 1):
            if len(set(words[first : first + length])) * DIFFERENT >= length:
                rows.extend((number, first, length))
    return np.frombuffer(rows, np.int64).reshape(-1, 3) if rows else np.empty((0, 3), np.int64)


def _weights(
    number: Ints,
    *,
    of_part: Ints,
    parts: Sequence[ListedPart],
    settings: DecontaminateConfig,
) -> Floats:
    """By how many items of the suite have the window: 1 for one, 0 from ``common_items`` on, or if
    all have it. Windows are in order, and those of one in the order of the parts."""
    suite = np.array([part.suite for part in parts], np.int64)[of_part]
    item = np.array([part.item for part in parts], np.int64)[of_part]
    is_new_suite = differs(number) | differs(suite)
    group = np.cumsum(is_new_suite) - 1
    items = np.bincount(group, weights=is_new_suite | differs(item))[group]
    num_items = Counter(suite for suite, _ in {(part.suite, part.item) for part in parts})
    most = np.array([min(num_items[part.suite], settings.common_items + 1) for part in parts])
    # Of a single item every window is its own.
    single = np.where(most > 1, most, np.e)[of_part] if len(parts) else np.empty(0)
    weights: Floats = np.maximum(1.0 - np.log(items) / np.log(single), 0.0)
    return weights


def _needed(total: Floats, *, parts: Sequence[ListedPart]) -> Floats:
    share = np.array([part.rule.share for part in parts])
    least = np.array([part.rule.least for part in parts])
    enough = np.array([part.rule.enough for part in parts])
    needed = np.minimum(np.maximum(total * share, least), enough)
    return np.where((total >= TOO_COMMON) & (needed <= total), needed, np.inf)


def differs(values: Ints) -> npt.NDArray[np.bool_]:
    """From the one before."""
    found = np.ones(len(values), np.bool_)
    found[1:] = values[1:] != values[:-1]
    return found


def count_searched(
    counts: Mapping[str, SuiteCount],
    *,
    parts: Sequence[ListedPart],
    evidence: Evidence,
    suites: Sequence[ItemSuite],
) -> None:
    """Complete what ``parts_of`` has counted."""
    places = [(part.suite, part.item, part.words) for part in parts]
    searched = {place for place, n in zip(places, evidence.needed, strict=True) if np.isfinite(n)}
    for suite, _, _ in set(places) - searched:
        counts[suites[suite].name].too_common += 1
    for suite, _ in {(suite, item) for suite, item, _ in searched}:
        counts[suites[suite].name].searched += 1
