# SPDX-License-Identifier: Apache-2.0
"""The windows of words by which the parts of suites are found, and what each is evidence of.

A part is looked for in windows of one length: long parts in long ones, of which one that is its own
is enough; short parts in short ones, of which a share must be found; the shortest questions as a
whole. A window weighs 1 if one item of its suite has it, and less with each that has it too.
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
from megacpt.curate.decontaminate.items import Part, Suite, Words
from megacpt.curate.decontaminate.settings import DecontaminateConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TOO_COMMON = 0.25
"""Parts whose windows weigh less in all are not looked for: many items share them."""

DIFFERENT = 3
"""Of so many words of a window one at least is another than those before."""


class Rule(NamedTuple):
    """How parts of at least ``words`` words are found."""

    words: int
    share: float
    enough: float = np.inf
    """Weight that is enough whatever the share."""
    is_whole: bool = False
    """The question is there from its first word to its last."""


def rules_of(settings: DecontaminateConfig) -> tuple[Rule, ...]:
    """Longest windows first."""
    return (
        Rule(settings.words, share=settings.share, enough=1.0),
        Rule(settings.short_words, share=settings.share),
        Rule(settings.whole_words, share=1.0, is_whole=True),
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
    rule: Rule


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
    suites: Sequence[Suite], *, settings: DecontaminateConfig
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
    suite: Suite, *, number: int, rules: Sequence[Rule], count: SuiteCount
) -> Iterator[ListedPart]:
    """Of items with the same words the first."""
    known: set[tuple[Words, ...]] = set()
    for item, words in enumerate(suite.words):
        if words in known:
            count.repeated += 1
            continue
        known.add(words)
        for part in dict.fromkeys(words):
            rule = next((rule for rule in rules if part.length >= rule.words), None)
            # An answer or option that is short is found everywhere.
            if rule is None or (rule.is_whole and part.part is not Part.question):
                count.too_short += 1
            else:
                yield ListedPart(number, item, part, rule)


def evidence_of(parts: Sequence[ListedPart], *, settings: DecontaminateConfig) -> Evidence:
    windows = _windows(parts)
    of_part = windows[:, 0]
    index = _C.NgramIndex([part.words.text for part in parts], windows=windows)
    number = index.first_equal
    order = np.lexsort((of_part, number))
    number, of_part = number[order], of_part[order]
    is_new = differs(number) | differs(of_part)  # A part may repeat a window.
    number, of_part = number[is_new], of_part[is_new]
    weights = _weights(number, of_part=of_part, parts=parts, settings=settings)
    total: Floats = np.bincount(of_part, weights=weights, minlength=len(parts)).astype(np.float64)
    return Evidence(
        index=index,
        bounds=np.searchsorted(number, np.arange(len(windows) + 1)),
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
    return np.array(rows, np.int64).reshape(-1, 3)


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
    enough = np.array([part.rule.enough for part in parts])
    return np.where(total >= TOO_COMMON, np.minimum(total * share, enough), np.inf)


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
    suites: Sequence[Suite],
) -> None:
    """Complete what ``parts_of`` has counted."""
    searched: dict[int, set[int]] = {}
    for part, needed in zip(parts, evidence.needed.tolist(), strict=True):
        if np.isfinite(needed):
            searched.setdefault(part.suite, set()).add(part.item)
        else:
            counts[suites[part.suite].name].too_common += 1
    for number, suite in enumerate(suites):
        counts[suite.name].searched = len(searched.get(number, ()))
