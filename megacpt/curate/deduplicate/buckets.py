# SPDX-License-Identifier: Apache-2.0
"""Documents with the same key, found in bounded memory: keys are dealt to files by their highest
bits, and each file is sorted by itself.

A bucket may hold a document too many: keys are compared without their lowest bits, which make room
for a number that the sort takes along. Whoever takes a bucket compares the documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megacpt.curate.deduplicate.files import Array

ENTRY = np.dtype([("key", np.uint64), ("document", np.int64)])
ENTRY_COPIES = 8
"""Of an entry's size, what sorting a file takes, and the buckets of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucketed:
    """Documents of buckets of two and more: those of bucket n end at ``ends[n]``."""

    members: Array
    ends: Array

    @property
    def sizes(self) -> Array:
        return np.diff(self.ends, prepend=0)

    def write(self, path: Path) -> None:
        self.members.tofile(path.with_suffix(".members"))
        self.ends.tofile(path.with_suffix(".ends"))

    @classmethod
    def read(cls, path: Path) -> Bucketed:
        return cls(
            members=np.fromfile(path.with_suffix(".members"), np.int64),
            ends=np.fromfile(path.with_suffix(".ends"), np.int64),
        )


def deal(
    keys: Iterable[tuple[Array, Array]], *, folder: Path, num_documents: int, memory_bytes: int
) -> list[Path]:
    """Files of entries: ``keys`` gives keys and documents, some at a time."""
    per_file = max(memory_bytes // (ENTRY_COPIES * ENTRY.itemsize), 1)
    bits = max(math.ceil(math.log2(max(num_documents / per_file, 1))), 0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.keys" for number in range(1 << bits)]
    files: list[BinaryIO] = [path.open("wb") for path in paths]
    try:
        for some, documents in keys:
            entries = np.empty(len(some), ENTRY)
            entries["key"], entries["document"] = some, documents
            for number, part in _parts(entries, bits=bits):
                files[number].write(part.tobytes())
    finally:
        for file in files:
            file.close()
    return paths


def _parts(entries: Array, *, bits: int) -> Iterator[tuple[int, Array]]:
    if not bits:
        yield 0, entries
        return
    of = (entries["key"] >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(of, kind="stable")
    ends = np.cumsum(np.bincount(of, minlength=1 << bits))
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            yield number, entries[order[start:end]]


def bucketed(path: Path, *, rules: Array, among: Array | None = None) -> Bucketed:
    """The buckets of a file, of documents whose rule is 0; ``among``: only buckets that hold one of
    these. The first call sorts the file, and leaves its buckets in place of the entries."""
    found = _sorted(path) if path.exists() else Bucketed.read(path)
    if among is not None:
        found = _holding(found, places=np.flatnonzero(among[found.members]))
    return _with_two(found, stays=rules[found.members] == 0)


def _sorted(path: Path) -> Bucketed:
    entries = np.fromfile(path, dtype=ENTRY)
    bits = np.uint64(max(len(entries) - 1, 1).bit_length())
    own = np.uint64((1 << int(bits)) - 1)
    packed = np.sort((entries["key"] & ~own) | np.arange(len(entries), dtype=np.uint64))
    keys, documents = packed >> bits, entries["document"][(packed & own).astype(np.int64)]
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))[: len(keys)]
    found = _with_two(
        Bucketed(members=documents, ends=ends), stays=np.ones(len(documents), dtype=bool)
    )
    found.write(path)
    path.unlink()
    return found


def _with_two(found: Bucketed, *, stays: Array) -> Bucketed:
    """Of the members that stay; buckets of one go."""
    number = np.repeat(np.arange(len(found.ends)), found.sizes)
    sizes = np.bincount(number[stays], minlength=len(found.ends))
    taken = sizes > 1
    return Bucketed(
        members=found.members[stays & taken[number]], ends=np.cumsum(sizes[taken], dtype=np.int64)
    )


def _holding(found: Bucketed, *, places: Array) -> Bucketed:
    """The buckets in which these places are."""
    taken = np.unique(np.searchsorted(found.ends, places, side="right"))
    sizes, stops = found.sizes[taken], found.ends[taken]
    ends = np.cumsum(sizes, dtype=np.int64)
    return Bucketed(
        members=found.members[np.repeat(stops - ends, sizes) + np.arange(sizes.sum())], ends=ends
    )
