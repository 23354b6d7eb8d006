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
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ENTRY = np.dtype([("key", np.uint64), ("document", np.int64)])
ENTRY_COPIES = 4
"""Of an entry's size, what sorting takes beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucketed:
    """Documents of buckets of two and more: those of bucket n end at ``ends[n]``."""

    members: Array
    ends: Array


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
    these."""
    entries = np.fromfile(path, dtype=ENTRY)
    entries = entries[rules[entries["document"]] == 0]
    if not len(entries):
        return Bucketed(members=entries["document"].copy(), ends=np.zeros(0, np.int64))
    bits = np.uint64(max(len(entries) - 1, 1).bit_length())
    own = np.uint64((1 << int(bits)) - 1)
    packed = np.sort((entries["key"] & ~own) | np.arange(len(entries), dtype=np.uint64))
    keys, documents = packed >> bits, entries["document"][(packed & own).astype(np.int64)]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    number = np.repeat(np.arange(len(sizes)), sizes)
    taken = sizes > 1
    if among is not None:
        holds = np.bincount(number, weights=among[documents], minlength=len(sizes)) > 0
        taken &= holds
    return Bucketed(
        members=np.ascontiguousarray(documents[taken[number]]),
        ends=np.cumsum(sizes[taken], dtype=np.int64),
    )
