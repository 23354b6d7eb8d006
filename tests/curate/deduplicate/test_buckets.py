# SPDX-License-Identifier: Apache-2.0
"""Buckets of documents with the same key, as a dictionary has them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from megacpt.curate.deduplicate.buckets import ENTRY, Array, Bucketed, bucketed, deal

NUM = 2000


def dealt(folder: Path, *, memory_bytes: int) -> tuple[Array, list[Path]]:
    draw = np.random.default_rng(3)
    values = draw.integers(0, 1 << 64, NUM // 3, np.uint64)
    keys = draw.choice(values, NUM)
    documents = np.arange(NUM)
    halves = ((keys[half::2], documents[half::2]) for half in (0, 1))
    return keys, deal(halves, folder=folder, num_documents=NUM, memory_bytes=memory_bytes)


def expected(keys: Array, *, rules: Array, among: Array | None = None) -> set[frozenset[int]]:
    found = defaultdict(set)
    for document, key in enumerate(keys.tolist()):
        found[key].add(document)
    asked = list(found.values())
    if among is not None:
        asked = [some for some in asked if any(among[document] for document in some)]
    left = [frozenset(document for document in some if rules[document] == 0) for some in asked]
    return {some for some in left if len(some) > 1}


def groups(found: Bucketed) -> list[frozenset[int]]:
    return [
        frozenset(part.tolist()) for part in np.split(found.members, found.ends[:-1]) if len(part)
    ]


@pytest.mark.parametrize("memory_bytes", [1 << 20, 64 * ENTRY.itemsize])
def test_buckets_are_those_of_a_dictionary(tmp_path: Path, memory_bytes: int) -> None:
    keys, paths = dealt(tmp_path, memory_bytes=memory_bytes)
    assert len(paths) == (1 if memory_bytes == 1 << 20 else 256)
    draw = np.random.default_rng(4)
    for turn in range(3):  # Later turns read what the first has sorted.
        rules = (draw.random(NUM) < 0.3 * turn).astype(np.uint8)
        among = draw.random(NUM) < 0.05 if turn else None
        found = [
            some for path in paths for some in groups(bucketed(path, rules=rules, among=among))
        ]
        assert len(found) == len(set(found))
        assert set(found) == expected(keys, rules=rules, among=among)


def test_documents_that_are_left_out_may_come_back(tmp_path: Path) -> None:
    keys, (path,) = dealt(tmp_path, memory_bytes=1 << 20)
    nobody = bucketed(path, rules=np.ones(NUM, np.uint8))
    assert len(nobody.members) == len(nobody.ends) == 0
    everyone = np.zeros(NUM, np.uint8)
    assert set(groups(bucketed(path, rules=everyone))) == expected(keys, rules=everyone)


def test_no_entries(tmp_path: Path) -> None:
    (path,) = deal([], folder=tmp_path, num_documents=0, memory_bytes=1 << 20)
    assert not len(bucketed(path, rules=np.zeros(1, np.uint8)).members)
