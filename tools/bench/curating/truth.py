# SPDX-License-Identifier: Apache-2.0
"""All pairs of documents that are alike, exactly: Jaccard of their shingles of five words.

Two sets of Jaccard t or more have one of their ``size - ceil(t * size) + 1`` rarest members in
common (prefix filtering), so all such pairs are found in the lists of documents with a rare member;
then each is compared. Of more documents than ``EVERY`` all pairs are found that some of them, drawn
evenly, have with any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WORD = re.compile(r"[^\W_]+")
WORDS = 5
EVERY = 20_000
SOME = 4_000
LISTED_AT_ONCE = 20_000_000
COMPARED_AT_ONCE = 1 << 15
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Pairs of documents by their places in the corpus, the smaller first."""

    pairs: Array
    similarities: Array
    looked_at: Array
    """Of each document, whether all pairs that it has are among them."""

    def at_least(self, similarity: float) -> Array:
        found: Array = self.pairs[self.similarities >= similarity]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """Members of each document, ascending; the rarer a member, the smaller its number."""

    members: Array
    offsets: Array
    num_single: int
    """Members that only one document has: the first ones."""

    @property
    def sizes(self) -> Array:
        return np.diff(self.offsets)


def truth_of(texts: Sequence[str], *, threshold: float, cache: Path) -> Truth:
    looked_at = np.arange(len(texts)) % max(1, len(texts) // SOME) == 0
    if len(texts) <= EVERY:
        looked_at[:] = True
    if not cache.exists():
        sets = shingle_sets(texts)
        pairs = candidates(sets, threshold=threshold, looked_at=looked_at)
        found = np.concatenate(
            [np.empty(0), *(similarities(sets, pairs=part) for part in _parts(pairs))]
        )
        alike = found >= threshold
        aside = cache.with_suffix(".partial.npz")
        np.savez(aside, pairs=pairs[alike], similarities=found[alike])
        aside.replace(cache)
    content = np.load(cache)
    return Truth(pairs=content["pairs"], similarities=content["similarities"], looked_at=looked_at)


def _parts(pairs: Array) -> Iterator[Array]:
    for first in range(0, len(pairs), COMPARED_AT_ONCE):
        yield pairs[first : first + COMPARED_AT_ONCE]


def shingle_sets(texts: Sequence[str]) -> Sets:
    numbers: dict[str, int] = {}
    hashes, sizes = [], []
    values = np.random.default_rng(5).integers(0, 1 << 64, 1 << 21, np.uint64)
    for text in texts:
        words = [numbers.setdefault(word, len(numbers)) for word in WORD.findall(text.lower())]
        own = np.unique(_shingles(values[words]))
        hashes.append(own)
        sizes.append(len(own))
    _, place, counts = np.unique(np.concatenate(hashes), return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    members = np.sort(owners << 40 | ranks[place]) & ((1 << 40) - 1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Sets(members=members, offsets=offsets, num_single=int((counts == 1).sum()))


def _shingles(words: Array) -> Array:
    """Of fewer words than a shingle, one of them all."""
    length = min(WORDS, len(words))
    found = np.zeros(len(words) - length + 1 if length else 0, np.uint64)
    for first in range(length):
        found = found * np.uint64(0x9E3779B97F4A7C15) + words[first : first + len(found)]
    return found


def candidates(sets: Sets, *, threshold: float, looked_at: Array) -> Array:
    """Pairs that may have the threshold: all that do are among them."""
    sizes = sets.sizes
    prefix = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    within = np.arange(len(sets.members)) - np.repeat(sets.offsets[:-1], sizes)
    listed = (within < np.repeat(prefix, sizes)) & (sets.members >= sets.num_single)
    owners = np.repeat(np.arange(len(sizes)), sizes)[listed]
    members = sets.members[listed]
    order = np.argsort(members, kind="stable")
    starts = np.flatnonzero(np.diff(members[order], prepend=-1))
    lists = np.split(owners[order], starts[1:])
    found, waiting, num_waiting = np.empty(0, np.int64), [], 0
    for documents in lists:
        mine = documents[looked_at[documents]]
        if len(documents) < 2 or not len(mine):
            continue
        one, other = np.repeat(mine, len(documents)), np.tile(documents, len(mine))
        waiting.append((np.minimum(one, other) << 32 | np.maximum(one, other))[one != other])
        num_waiting += len(one)
        if num_waiting > LISTED_AT_ONCE:
            found, waiting, num_waiting = np.unique(np.concatenate([found, *waiting])), [], 0
    found = np.unique(np.concatenate([found, *waiting]))
    pairs = np.stack([found >> 32, found & 0xFFFFFFFF], axis=1)
    a, b = sizes[pairs[:, 0]], sizes[pairs[:, 1]]
    close: Array = pairs[np.minimum(a, b) >= threshold * np.maximum(a, b) - 1e-9]
    return close


def similarities(sets: Sets, *, pairs: Array) -> Array:
    """True Jaccard of each pair."""
    sizes = sets.sizes
    keys = np.concatenate([_keyed(sets, documents=pairs[:, side]) for side in (0, 1)])
    keys.sort()
    common = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 40, minlength=len(pairs))
    either: Array = sizes[pairs[:, 0]] + sizes[pairs[:, 1]] - common
    return common / np.maximum(either, 1)


def _keyed(sets: Sets, *, documents: Array) -> Array:
    """The members of each, with its place before them."""
    sizes = sets.sizes[documents]
    places = np.repeat(np.arange(len(documents)), sizes)
    within = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found: Array = sets.members[sets.offsets[documents][places] + within]
    return places << 40 | found
