# SPDX-License-Identifier: Apache-2.0
"""The keyed bijection: it is one, it equals its NumPy twin, and it looks uniform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import Permutation, permute

MASK = (1 << 64) - 1
Integers = npt.NDArray[np.int64]


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def permute_twin(index: int, *, size: int, key: int) -> int:
    bits = max(8, (size - 1).bit_length())
    low_bits = (bits + 1) // 2
    keys = [mix((key + 0x9E3779B97F4A7C15 * n) & MASK) for n in range(1, 9)]
    while True:
        low, high = index & ((1 << low_bits) - 1), index >> low_bits
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            low ^= mix(high ^ even) & ((1 << low_bits) - 1)
            high ^= mix(low ^ odd) & ((1 << (bits - low_bits)) - 1)
        index = (high << low_bits) | low
        if index < size:
            return index


def near_powers_of_two() -> st.SearchStrategy[int]:
    return st.builds(
        lambda bits, offset: max(1, (1 << bits) + offset), st.integers(0, 20), st.integers(-1, 1)
    )


@given(size=st.integers(1, 5000) | near_powers_of_two(), key=st.integers(0, MASK))
@settings(max_examples=60, deadline=None)
def test_it_is_a_bijection(size: int, key: int) -> None:
    images = permute(np.arange(size), size=size, key=key)
    assert images.min() == 0
    assert np.bincount(images, minlength=size).tolist() == [1] * size


@pytest.mark.parametrize("size", [1 << 23, (1 << 23) + 1, 9_999_991, 10_000_000])
def test_it_is_a_bijection_of_millions(size: int) -> None:
    seen = np.zeros(size, dtype=bool)
    seen[permute(np.arange(size), size=size, key=size)] = True
    assert seen.all()


@given(size=st.integers(1, 1 << 62), key=st.integers(0, MASK), data=st.data())
@settings(max_examples=50, deadline=None)
def test_one_index_at_a_time_is_the_same(size: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    one = Permutation(size, key=key)(index)
    assert one == permute(np.array([index]), size=size, key=key)[0]


@given(data=st.data(), size=st.integers(1, 1 << 62), key=st.integers(0, MASK))
@settings(max_examples=100, deadline=None)
def test_it_equals_its_twin(data: st.DataObject, size: int, key: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    assert permute(np.array([index]), size=size, key=key)[0] == permute_twin(
        index, size=size, key=key
    )


def chi_square_deviation(counts: npt.NDArray[np.float64], *, freedom: int) -> float:
    """How many standard deviations chi-square lies above what uniform counts give."""
    expected = counts.mean()
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("size", [3, 5, 8, 16, 33, 64, 100])
def test_images_and_steps_are_uniform_over_keys(size: int) -> None:
    """4 sigma with fixed keys: a weaker network (fewer bits or rounds) lies at 5 to 300."""
    keys = np.random.default_rng(0).integers(0, 1 << 63, size=8000)
    images = np.stack([permute(np.arange(size), size=size, key=int(key)) for key in keys])
    places = np.concatenate([np.bincount(column, minlength=size) for column in images.T])
    assert chi_square_deviation(places.astype(float), freedom=(size - 1) ** 2) < 4
    steps = np.bincount((np.diff(images, axis=1) % size).ravel(), minlength=size)[1:]
    assert chi_square_deviation(steps.astype(float), freedom=size - 2) < 4


def test_neighbours_keys_and_order_do_not_correlate() -> None:
    size = 1 << 17
    one, other = (permute(np.arange(size), size=size, key=key).astype(float) for key in (1, 2))
    for left, right in ((one[1:], one[:-1]), (one, other), (one, np.arange(size))):
        assert abs(np.corrcoef(left, right)[0, 1]) < 4 / size**0.5


@pytest.mark.parametrize(
    ("indices", "size", "message"),
    [
        ([0], 0, r"size must be in 1..2\^62, got 0"),
        ([0], (1 << 62) + 1, "size must be in 1..2"),
        ([[0]], 4, "indices must have one dimension, got 2"),
    ],
)
def test_wrong_arguments_are_named(indices: list[int], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        permute(np.array(indices), size=size, key=0)


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_out_of_range_is_named(index: int) -> None:
    with pytest.raises(IndexError, match=rf"index must be in 0..3, got {index}"):
        permute(np.array([index]), size=4, key=0)
