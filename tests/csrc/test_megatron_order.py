# SPDX-License-Identifier: Apache-2.0
"""The indices of megatron-core's datasets against twins that lay every token out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import megatron_blend, megatron_indices

Integers = npt.NDArray[Any]
seeds = st.sampled_from([0, 1, 1234, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


def shuffled(values: Integers, random: np.random.RandomState) -> Integers:
    random.shuffle(values)
    return values


def indices_twin(
    lengths: Integers, *, seed: int, sequence_length: int, num_epochs: int, separate: bool
) -> tuple[Integers, Integers, Integers]:
    random = np.random.RandomState(seed)
    epoch = np.arange(lengths.size, dtype=np.int32)
    parts = [num_epochs - 1, 1] if separate else [num_epochs]
    documents = np.concatenate([shuffled(np.tile(epoch, n), random) for n in parts])
    places = np.repeat(np.arange(documents.size), lengths[documents])
    tokens = np.concatenate([np.arange(n) for n in lengths[documents]])
    count, total = (places.size - 1) // sequence_length, int(lengths.sum())
    at = np.arange(count + 1) * sequence_length
    samples = np.stack([places[at], tokens[at]], axis=1)
    samples[0] = 0
    first = ((num_epochs - 1) * total - 1) // sequence_length if separate else count
    order = [np.arange(first), np.arange(first, count)]
    return documents, samples, np.concatenate([shuffled(part, random) for part in order])


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=60).filter(any),
    seed=seeds,
    sequence_length=st.integers(1, 40),
    num_epochs=st.integers(1, 5),
    separate=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_indices_equal_their_twin(
    lengths: list[int], seed: int, sequence_length: int, num_epochs: int, separate: bool
) -> None:
    sizes = np.array(lengths, dtype=np.int32)
    separate &= num_epochs > 1
    ours = megatron_indices(
        sizes,
        seed=seed,
        sequence_length=sequence_length,
        num_epochs=num_epochs,
        separate_last_epoch=separate,
    )
    twin = indices_twin(
        sizes, seed=seed, sequence_length=sequence_length, num_epochs=num_epochs, separate=separate
    )
    for index, expected in zip(ours, twin, strict=True):
        np.testing.assert_array_equal(index, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 258, 4096, 65_537, 200_000])
def test_shuffles_equal_numpy_s_around_blocks_and_powers_of_two(size: int) -> None:
    lengths = np.ones(size, dtype=np.int32)
    documents, _, order = megatron_indices(
        lengths, seed=7, sequence_length=1, num_epochs=2, separate_last_epoch=False
    )
    random = np.random.RandomState(7)
    expected = shuffled(np.tile(np.arange(size), 2), random)
    np.testing.assert_array_equal(documents, expected)
    np.testing.assert_array_equal(order, shuffled(np.arange(2 * size - 1), random))


def test_lengths_are_read_where_they_lie_in_a_file() -> None:
    """The arrays of a .idx are not aligned."""
    raw = np.frombuffer(b"\0" + np.array([3, 0, 5], dtype="<i4").tobytes(), dtype=np.uint8)
    documents, samples, _ = megatron_indices(
        raw[1:].view("<i4"), seed=0, sequence_length=2, num_epochs=1, separate_last_epoch=False
    )
    assert sorted(documents.tolist()) == [0, 1, 2]
    assert len(samples) == 4


def blend_twin(weights: list[float], *, num_samples: int) -> tuple[list[int], list[int]]:
    drawn = [0] * len(weights)
    sources, samples = [], []
    for n in range(num_samples):
        deficits = [w * max(n, 1) - float(d) for w, d in zip(weights, drawn, strict=True)]
        chosen = deficits.index(max(deficits))
        sources.append(chosen)
        samples.append(drawn[chosen])
        drawn[chosen] += 1
    return sources, samples


@given(
    parts=st.lists(st.integers(1, 9) | st.floats(1e-3, 1e3), min_size=1, max_size=70),
    num_samples=st.integers(0, 400),
)
@settings(max_examples=100, deadline=None)
def test_the_blend_equals_its_twin(parts: list[float], num_samples: int) -> None:
    weights = (np.array(parts) / np.sum(parts)).tolist()
    sources, samples = megatron_blend(weights, num_samples=num_samples)
    assert (sources.tolist(), samples.tolist()) == blend_twin(weights, num_samples=num_samples)


@pytest.mark.parametrize("num_sources", [1, 2, 24, 25, 31, 32, 33, 257])
def test_equal_weights_take_turns_in_order(num_sources: int) -> None:
    """All ties: the first source that is furthest behind."""
    weights = [1 / num_sources] * num_sources
    sources, samples = megatron_blend(weights, num_samples=3 * num_sources)
    assert (sources.tolist(), samples.tolist()) == blend_twin(weights, num_samples=3 * num_sources)


def indices(lengths: Integers, **changed: Any) -> object:
    settings_ = {"seed": 0, "sequence_length": 4, "num_epochs": 1, "separate_last_epoch": False}
    return megatron_indices(lengths, **(settings_ | changed))


@pytest.mark.parametrize(
    ("lengths", "changed", "message"),
    [
        ([3, -1], {}, "a length is negative: -1"),
        ([], {}, "at least one epoch, sequence and token"),
        ([0, 0], {}, "at least one epoch, sequence and token"),
        ([3], {"num_epochs": 0}, "at least one epoch"),
        ([3], {"sequence_length": 0}, r"sequence_length must be in 1..2\^31-1"),
        ([3], {"sequence_length": 2**31}, r"sequence_length must be in 1..2\^31-1"),
        ([3] * 4, {"num_epochs": 2**30}, r"must be below 2\^31"),
        ([3], {"num_epochs": 2**62}, r"must be below 2\^31"),
        ([2**31 - 1] * 8, {"sequence_length": 1}, r"number of samples must be below 2\^31"),
        ([3], {"separate_last_epoch": True}, "only one of several epochs"),
    ],
)
def test_wrong_arguments_are_named(
    lengths: list[int], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        indices(np.array(lengths, dtype=np.int32), **changed)


@pytest.mark.parametrize(
    "lengths",
    [np.zeros(3, dtype=np.int64), np.zeros((2, 2), dtype=np.int32), np.ones(6, np.int32)[::2]],
    ids=["type", "dimensions", "strides"],
)
def test_lengths_of_another_kind_are_refused(lengths: Integers) -> None:
    with pytest.raises(ValueError, match="lengths must be a contiguous array of one dimension"):
        indices(lengths)


@pytest.mark.parametrize(
    ("weights", "num_samples", "message"),
    [
        ([], 3, "there must be 1 to 32766 weights, got 0"),
        ([0.5] * 32_767, 3, "there must be 1 to 32766 weights, got 32767"),
        ([0.5, 0.0], 3, "weights must be above 0"),
        ([0.5, float("nan")], 3, "weights must be above 0"),
        ([0.5, float("inf")], 3, "weights must be above 0"),
        ([1.0], -1, "num_samples must be >= 0, got -1"),
    ],
)
def test_wrong_weights_are_named(weights: list[float], num_samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        megatron_blend(weights, num_samples=num_samples)
