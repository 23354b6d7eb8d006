# SPDX-License-Identifier: Apache-2.0
"""Who goes of documents that share a bucket, and which sets hang together, against Python."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megacpt._C import ShingleFiles

Array = npt.NDArray[Any]
MAY_GO = 1 << 63
RULE = 7


class Case:
    """Documents in files, of which copies differ in a few shingles; buckets of any of them."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        sizes = self.rng.integers(0, 9, size=self.rng.integers(1, 5)).tolist()
        self.num = sum(sizes)
        self.sets = [self._shingles() for _ in range(self.num)]
        for document in range(1, self.num):
            if self.rng.random() < 0.5:
                self.sets[document] = self._copy(self.sets[int(self.rng.integers(document))])
        firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        filled = [(a, b) for a, b in pairwise(firsts) if b > a]
        paths = [folder / f"{n}.shingles" for n in range(len(filled))]
        for path, (first, last) in zip(paths, filled, strict=True):
            np.concatenate(self.sets[first:last]).astype(np.uint32).tofile(path)
        self.files = ShingleFiles(
            [str(path) for path in paths],
            ends=[np.cumsum([len(s) for s in self.sets[a:b]], dtype=np.int64) for a, b in filled],
            firsts=[first for first, _ in filled],
        )
        heldout = self.rng.random(self.num) < 0.2
        drawn = self.rng.integers(0, 5, size=self.num).astype(np.uint64)
        self.priorities = np.where(heldout, drawn, drawn | np.uint64(MAY_GO))
        self.buckets = [
            self.rng.choice(self.num, size=self.rng.integers(0, self.num + 1), replace=False)
            for _ in range(self.rng.integers(0, 6))
        ]

    def _shingles(self) -> Array:
        return np.unique(self.rng.integers(0, 60, size=self.rng.integers(0, 40))).astype(np.uint32)

    def _copy(self, of: Array) -> Array:
        kept = of[self.rng.random(len(of)) < 0.95]
        return np.unique(np.append(kept, self.rng.integers(0, 60, size=1))).astype(np.uint32)

    def jaccard(self, first: int, second: int) -> float:
        a, b = set(self.sets[first].tolist()), set(self.sets[second].tolist())
        return len(a & b) / len(a | b) if a and b else 0.0

    def given(self) -> dict[str, Array]:
        members = np.concatenate([np.zeros(0, np.int64), *self.buckets]).astype(np.int64)
        return {
            "members": members,
            "priorities": self.priorities[members],
            "ends": np.cumsum([len(bucket) for bucket in self.buckets], dtype=np.int64),
        }

    def ordered(self, bucket: Array) -> list[int]:
        return sorted(bucket.tolist(), key=lambda n: (int(self.priorities[n]), n))


@pytest.fixture(params=range(60))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    seed = request.param
    found = Case(tmp_path, seed=seed)
    while not found.num:
        seed += 1000
        found = Case(tmp_path, seed=seed)
    return found


def test_each_goes_for_one_that_stays(case: Case) -> None:
    threshold = 0.7
    expected, other = np.zeros(case.num, np.uint8), np.full(case.num, -1)
    expected[case.rng.random(case.num) < 0.1] = 1
    rules, like = expected.copy(), np.full(case.num, -1, np.int64)
    for bucket in case.buckets:
        order = case.ordered(bucket)
        for n, first in enumerate(order):
            for second in order[n + 1 :]:
                out = expected[first] or expected[second] or case.priorities[second] < MAY_GO
                if not out and case.jaccard(first, second) >= threshold:
                    expected[second], other[second] = RULE, first
    case.files.drop_alike(**case.given(), threshold=threshold, rule=RULE, rules=rules, like=like)
    assert rules.tolist() == expected.tolist()
    assert like.tolist() == other.tolist()


def test_sets_that_hang_together(case: Case) -> None:
    threshold = 0.6
    sets = {n: {n} for n in range(case.num)}
    for bucket in case.buckets:
        for first in bucket.tolist():
            for second in bucket.tolist():
                if first != second and case.jaccard(first, second) >= threshold:
                    sets[first] |= sets[second]
                    for n in sets[first]:
                        sets[n] = sets[first]
    parents = np.arange(case.num, dtype=np.int64)
    nobody = np.zeros(case.num, np.uint8)
    case.files.join_alike(**case.given(), threshold=threshold, rules=nobody, parents=parents)
    for n in range(case.num):
        root = n
        while parents[root] != root:
            root = int(parents[root])
        assert root == min(sets[n])


def test_similarity(case: Case) -> None:
    for first in range(case.num):
        for second in range(case.num):
            found = case.files.similarity(first, second)
            assert found == pytest.approx(case.jaccard(first, second), abs=1e-12)


def arrays(**changes: Array) -> dict[str, Array]:
    """Two documents in a bucket."""
    return {
        "members": np.array([0, 1]),
        "priorities": np.array([MAY_GO, MAY_GO], np.uint64),
        "ends": np.array([2]),
        "rules": np.zeros(2, np.uint8),
        "like": np.zeros(2, np.int64),
        **changes,
    }


@pytest.fixture
def two(tmp_path: Path) -> ShingleFiles:
    np.arange(6, dtype=np.uint32).tofile(tmp_path / "0.shingles")
    path = str(tmp_path / "0.shingles")
    return ShingleFiles([path], ends=[np.array([3, 6])], firsts=[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": np.array([0, 2])}, "no such document"),
        ({"members": np.array([0, -1])}, "no such document"),
        ({"ends": np.array([3])}, "ends must rise up to the last"),
        ({"ends": np.array([2, 1])}, "ends must rise up to the last"),
        ({"priorities": np.array([1], np.uint64)}, "must be equally many"),
        ({"like": np.zeros(1, np.int64)}, "like must be a contiguous array of one entry"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(
    two: ShingleFiles, changes: dict[str, Array], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        two.drop_alike(**arrays(**changes), threshold=0.5, rule=1)


def test_files_that_are_too_short_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "0.shingles"
    np.arange(4, dtype=np.uint32).tofile(path)
    files = ShingleFiles([str(path)], ends=[np.array([3, 6])], firsts=[0])
    with pytest.raises(RuntimeError, match="a file of shingles ends too early"):
        files.similarity(0, 1)
    with pytest.raises(ValueError, match="no such document"):
        files.similarity(0, 2)
    with pytest.raises(RuntimeError, match=r"missing.shingles cannot be opened"):
        ShingleFiles([str(tmp_path / "missing.shingles")], ends=[np.array([1])], firsts=[0])
    with pytest.raises(ValueError, match="ends must not fall"):
        ShingleFiles([str(path)], ends=[np.array([3, 1])], firsts=[0]).similarity(0, 1)
