# SPDX-License-Identifier: Apache-2.0
"""Which tokens would shorten a text most: BPE goes on where it stopped, on the words of that text.

Each round joins the pair of neighbouring tokens that is most frequent, so that as many tokens are
saved (continued BPE). Words are counted once each, however frequent they are, and a pair leads to
the words that hold it, so that a round touches no others.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from megacpt.vocabulary.bpe import Bpe, Ids
from megacpt.vocabulary.growth import Growth, joined

BETWEEN = re.compile(r"(?<=\S)(?= \S)")
"""In front of the blank between two words. Every pre-tokenizer cuts there that leaves words apart;
where it cuts besides, it is asked, once for each different run of text."""
RUNS_AT_ONCE = 1 << 14
COUNT_MIN = 2

Words = Counter[Ids]
"""How often a text has a word of several tokens, as the old tokenizer cuts it."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A merge, and how many tokens it saves where those above it are made."""

    left: str
    right: str
    text: str
    saved: int

    @property
    def line(self) -> str:
        """Of a file of merges (megacpt.vocabulary.wanted)."""
        return (
            f"{self.left} {self.right}\t{json.dumps(self.text, ensure_ascii=False)}\t{self.saved}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fertility:
    """Tokens that a text needs."""

    per_word: float
    per_byte: float


@dataclass(slots=True, kw_only=True)
class Counted:
    """A text, as its words."""

    words: Words
    num_words: int = 0
    """That blanks and line ends set apart, whatever the tokenizer takes for a word."""
    num_bytes: int = 0

    def fertility(self, growth: Growth) -> Fertility:
        """With the new merges of ``growth``, if it has any."""
        tokens = sum(len(growth.merged(ids)) * count for ids, count in self.words.items())
        return Fertility(per_word=tokens / self.num_words, per_byte=tokens / self.num_bytes)


def count_words(texts: Iterable[str], *, bpe: Bpe) -> Counted:
    """Added tokens within the text count as their old ids."""
    runs: Counter[str] = Counter()
    counted = Counted(words=Counter())
    for text in texts:
        runs.update(BETWEEN.split(text))
        counted.num_words += len(text.split())
        counted.num_bytes += len(text.encode("utf-8", "surrogatepass"))
    for some in _some(runs):
        for run, words in zip(some, bpe.words(some), strict=True):
            for ids in words:
                counted.words[ids] += runs[run]
    return counted


def _some(runs: Counter[str]) -> Iterator[list[str]]:
    names = list(runs)
    for start in range(0, len(names), RUNS_AT_ONCE):
        yield names[start : start + RUNS_AT_ONCE]


def propose(words: Words, *, growth: Growth, count: int) -> list[Proposal]:
    """Up to ``count`` merges, which ``growth`` then has; fewer where no pair comes twice."""
    search = _Search(words)
    found: list[Proposal] = []
    while len(found) < count:
        best = search.most_frequent()
        if best is None:
            break
        left, right = (growth.string(number) for number in best)
        if left + right in growth:
            continue  # Old text would have other old ids, and no token would be new.
        made = growth.merge(best)
        saved = search.join(best, made=made)
        text = growth.bpe.text(growth.parts(made))
        found.append(Proposal(left=left, right=right, text=text, saved=saved))
    return found


class _Search:
    """Words as they are cut by now, and the pairs in them."""

    def __init__(self, words: Words) -> None:
        several = [(ids, count) for ids, count in words.items() if len(ids) > 1]
        self._words: list[Ids] = [ids for ids, _ in several]
        self._counts = [count for _, count in several]
        self._totals: Counter[Pair] = Counter()
        self._holders: defaultdict[Pair, set[int]] = defaultdict(set)
        for number, ids in enumerate(self._words):
            for pair in pairwise(ids):
                self._totals[pair] += self._counts[number]
                self._holders[pair].add(number)
        # Counts in the heap are those of some time ago; a pair whose count has changed is pushed
        # again, and what no longer holds is passed over.
        self._heap = [(-total, pair) for pair, total in self._totals.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        while self._heap:
            total, pair = heapq.heappop(self._heap)
            if -total == self._totals[pair]:
                return pair if -total >= COUNT_MIN else None
        return None

    def join(self, pair: Pair, *, made: int) -> int:
        """Returns how many tokens it saves."""
        changed: set[Pair] = set()
        saved = 0
        for number in self._holders.pop(pair):
            length = len(self._words[number])
            changed |= self._rewrite(number, pair=pair, made=made)
            saved += (length - len(self._words[number])) * self._counts[number]
        for other in changed:
            heapq.heappush(self._heap, (-self._totals[other], other))
        return saved

    def _rewrite(self, number: int, *, pair: Pair, made: int) -> set[Pair]:
        """Join ``pair`` in one word; the pairs that are more or less frequent now."""
        old, count = self._words[number], self._counts[number]
        new = joined(old, pair=pair, made=made)
        self._words[number] = new
        before, after = Counter(pairwise(old)), Counter(pairwise(new))
        for other, times in (before - after).items():
            self._totals[other] -= times * count
            if other not in after:
                self._holders[other].discard(number)
        for other, times in (after - before).items():
            self._totals[other] += times * count
            self._holders[other].add(number)
        return {p for p in before | after if before[p] != after[p]} - {pair}
