# SPDX-License-Identifier: Apache-2.0
"""Shingles, MinHash and Jaccard against their twins, and what MinHash promises of pairs."""

from __future__ import annotations

import hashlib
import threading
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import Sketcher, similarities
from megacpt.curate.words import STATED
from tests.csrc.test_words import texts
from tests.curate import twins

Array = npt.NDArray[Any]
GOLDEN = "f27bd98a30b17a2d80d07c0679ebddcd0aa86c723a32a9270ebc936c1a7cca1f"
ENGLISH = [
    "the", "of", "and", "a", "licence", "Software", "WARRANTY", "without", "antidisestablishment",
    "is", "provided", "AS-IS", "it's", "notice", "copies", "(c)", "1999", "above", "all",
]  # fmt: skip


def sets_of(found: Any) -> list[Array]:
    return [found.shingles[a:b] for a, b in pairwise(found.shingle_offsets.tolist())]


def english(num_words: int, *, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(ENGLISH, size=num_words))


@given(
    some=st.lists(texts, max_size=4),
    words=st.sampled_from([1, 2, 3, 5, 10, 65_536]),
    bands=st.integers(0, 9),
    rows=st.integers(1, 9),
    seed=st.sampled_from([0, 1, 2**64 - 1]),
)
@settings(max_examples=200, deadline=None)
def test_sketches_are_those_of_the_twin(
    some: list[str], words: int, bands: int, rows: int, seed: int
) -> None:
    found = Sketcher(words=words, bands=bands, rows=rows, seed=seed).sketch(some, hashes=True)
    expected = [twins.shingles(text, length=words) for text in some]
    assert list(map(list, sets_of(found))) == list(map(list, expected))
    assert found.num_words.tolist() == [len(twins.words(text)) for text in some]
    assert found.hashes.tolist() == [
        twins.row_hash([word.text for word in twins.words(text)]) for text in some
    ]
    assert found.bands.shape == (len(some), bands)
    for row, hashes in zip(found.bands, expected, strict=True):
        twin = twins.bands(hashes, bands=bands, rows=rows, seed=seed) if bands else []
        np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize("vector_bits", [128, 256, 512])
@pytest.mark.parametrize("num_words", [4, 5, 6, 40, 1500])
def test_long_texts_are_those_of_the_twin(num_words: int, vector_bits: int) -> None:
    """With vectors of each width up to those of this processor."""
    text = english(num_words, seed=num_words)
    sketcher = Sketcher(bands=14, rows=10, seed=3, vector_bits=vector_bits)
    found = sketcher.sketch([text, text.upper(), text])
    expected = twins.shingles(text, length=5)
    for row, hashes in zip(found.bands, sets_of(found), strict=True):
        np.testing.assert_array_equal(hashes, expected)
        np.testing.assert_array_equal(row, twins.bands(expected, bands=14, rows=10, seed=3))


def test_texts_shorter_than_a_shingle_are_like_their_equals_alone() -> None:
    found = Sketcher(bands=8, rows=4).sketch(["Yes.", "YES", "Paris is in France", "", "—"])
    assert found.shingle_offsets.tolist() == [0, 1, 2, 3, 3, 3]
    pairs = np.array([[0, 1], [0, 2], [0, 3], [3, 4]], dtype=np.int64)
    values = similarities(found.shingles, offsets=found.shingle_offsets, pairs=pairs)
    assert values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert (found.bands[0] == found.bands[1]).all()
    assert not (found.bands[0] == found.bands[2]).any()


def test_many_equal_and_many_different_shingles() -> None:
    """Sets that are far smaller than their texts, and buckets of all sizes."""
    several = ["same " * 5000, " ".join(map(str, range(30_000))), english(3000, seed=0) * 3]
    for text, hashes in zip(several, sets_of(Sketcher(words=2).sketch(several)), strict=True):
        np.testing.assert_array_equal(hashes, twins.shingles(text, length=2))


def test_what_is_not_wanted_is_left_out_and_changes_nothing_else() -> None:
    some = [english(50, seed=1), "", "Ünïcode — 漢字"]
    whole = Sketcher(bands=4, rows=3).sketch(some)
    bare = Sketcher(bands=4, rows=3).sketch(some, normalised=False, shingles=False)
    hashes = Sketcher().sketch(some, normalised=False, shingles=False, hashes=True).hashes
    np.testing.assert_array_equal(bare.bands, whole.bands)
    assert hashes.tolist() == Sketcher().sketch(some, hashes=True).hashes.tolist()
    assert bare.normalised.size == bare.shingles.size == bare.hashes.size == 0
    assert bare.text_offsets.tolist() == bare.shingle_offsets.tolist() == [0] * 4
    assert bare.num_words.tolist() == [len(twins.words(t)) for t in some]


def test_results_stay_as_they_are() -> None:
    """Records of curations hold these hashes: with another result megacpt.curate.words.VERSION
    rises."""
    some = [english(200, seed=7), "", "a", "Straße ﬁn 漢字かな ไทย ①②③", "\ud800 x"]
    found = Sketcher(words=3, bands=5, rows=4, seed=9).sketch(some)
    content = found.normalised.tobytes() + found.shingles.tobytes() + found.bands.tobytes()
    assert STATED == {"words_version": 1, "unicode": "14.0.0"}
    assert hashlib.sha256(content).hexdigest() == GOLDEN


def test_bands_differ_by_seed_and_from_each_other() -> None:
    """So that the keys of all bands may lie in one table: even of a text without words, whose
    images are all the same."""
    some = ["", english(30, seed=2)]
    one, other = (Sketcher(bands=40, rows=3, seed=seed).sketch(some).bands for seed in (1, 2))
    assert [len(set(row)) for row in one.tolist()] == [40, 40]
    assert not np.any(one[1] == other[1])


def test_threads_share_a_sketcher() -> None:
    sketcher = Sketcher(bands=4, rows=4)
    several = [[english(60, seed=10 * n + k) for k in range(20)] for n in range(4)]
    expected = [sketcher.sketch(some).bands.tolist() for some in several]
    found: dict[int, list[Any]] = {}

    def work(n: int) -> None:
        found[n] = [sketcher.sketch(several[n]).bands.tolist() for _ in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == [expected[n]] * 20 for n in range(4))


def pair(*, common: int, own: int, seed: int) -> tuple[str, str]:
    """Two texts of single words, of which they have ``common`` in common."""
    numbers = np.random.default_rng(seed).choice(10**9, size=common + 2 * own, replace=False)
    both, one, other = np.split(numbers, [common, common + own])
    return (
        " ".join(map(str, np.append(both, one).tolist())),
        " ".join(map(str, np.append(other, both).tolist())),
    )


@pytest.mark.parametrize(("common", "own"), [(20, 40), (100, 50), (160, 20), (90, 5), (2, 1)])
def test_minhash_values_agree_as_often_as_shingles(common: int, own: int) -> None:
    sketcher = Sketcher(words=1, bands=256, rows=1, seed=5)
    agreed = []
    for seed in range(80):
        bands = sketcher.sketch(list(pair(common=common, own=own, seed=seed))).bands
        agreed.append(np.mean(bands[0] == bands[1]))
    share = common / (common + 2 * own)
    # Permutations of one pair are not wholly independent, pairs are: their own spread is the scale.
    error = np.std(agreed) / np.sqrt(len(agreed))
    assert abs(np.mean(agreed) - share) < 4 * error
    assert np.std(agreed) < 1.3 * np.sqrt(share * (1 - share) / 256)


@given(some=st.lists(texts, min_size=1, max_size=5), words=st.sampled_from([1, 5]))
@settings(max_examples=100, deadline=None)
def test_similarities_are_those_of_the_words(some: list[str], words: int) -> None:
    found = Sketcher(words=words).sketch(some)
    pairs = np.array([(a, b) for a in range(len(some)) for b in range(len(some))], dtype=np.int64)
    values = similarities(found.shingles, offsets=found.shingle_offsets, pairs=pairs)
    expected = [twins.jaccard(some[a], some[b], length=words) for a, b in pairs.tolist()]
    assert values.tolist() == expected


@pytest.mark.parametrize("universe", [1, 5, 12, 40, 2**32])
def test_similarities_of_sets_of_all_sizes(universe: int) -> None:
    """Those of NumPy, at every rest that four leaves."""
    rng = np.random.default_rng(universe)
    sets = [
        np.unique(rng.integers(0, universe, size=size, dtype=np.uint32))
        for size in [*range(14), 100, 101]
    ]
    offsets = np.cumsum([0, *map(len, sets)], dtype=np.int64)
    pairs = np.array([(a, b) for a in range(len(sets)) for b in range(len(sets))], dtype=np.int64)
    found = similarities(np.concatenate(sets), offsets=offsets, pairs=pairs)
    for (a, b), value in zip(pairs.tolist(), found.tolist(), strict=True):
        either = len(np.union1d(sets[a], sets[b]))
        assert value == (len(np.intersect1d(sets[a], sets[b])) / either if either else 0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pairs": [[0, 2]]}, "sets that are there"),
        ({"pairs": [[-1, 0]]}, "sets that are there"),
        ({"pairs": [0, 1]}, "2 columns"),
        ({"pairs": [[0, 1, 1]]}, "2 columns"),
        ({"offsets": []}, "must not be empty"),
        ({"offsets": [0, 2, 4]}, "rise within the sets"),
        ({"offsets": [0, 2, 1]}, "rise within the sets"),
        ({"offsets": [-1, 2, 3]}, "rise within the sets"),
    ],
)
def test_sets_that_cannot_be_are_refused(changed: dict[str, Any], message: str) -> None:
    arguments = {"offsets": [0, 1, 3], "pairs": [[0, 1]]} | changed
    arrays = {name: np.array(value, dtype=np.int64) for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        similarities(np.array([1, 2, 3], dtype=np.uint32), **arrays)


def test_arrays_of_other_types_are_refused() -> None:
    sets, offsets = np.array([1, 2], dtype=np.uint32), np.array([0, 1, 2], dtype=np.int64)
    pairs = np.array([[0, 1]], dtype=np.int64)
    with pytest.raises(ValueError, match="shingles must be a contiguous"):
        similarities(sets.astype(np.uint64), offsets=offsets, pairs=pairs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="offsets must be a contiguous"):
        similarities(sets, offsets=offsets[::2], pairs=pairs)
    for bad in (pairs.astype(np.int32), np.zeros((3, 4), dtype=np.int64)[:, ::2]):
        with pytest.raises(ValueError, match="pairs must be a contiguous"):
            similarities(sets, offsets=offsets, pairs=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": 0}, "words must be in 1..65536, got 0"),
        ({"words": 65_537}, "words must be in 1..65536"),
        ({"bands": -1}, "bands must be in 0..65536, got -1"),
        ({"bands": 65_537}, "bands must be in 0..65536"),
        ({"bands": 2, "rows": 0}, "rows must be above 0"),
        ({"bands": 2, "rows": -1}, "rows must be above 0"),
        ({"bands": 2, "rows": 2**62}, "bands \\* rows at most 65536"),
        ({"bands": 4096, "rows": 17}, "bands \\* rows at most 65536"),
    ],
)
def test_plans_that_cannot_be_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sketcher(**changed)
