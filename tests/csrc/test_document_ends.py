# SPDX-License-Identifier: Apache-2.0
"""Ids of texts to tokens of documents, against a NumPy twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt._C import end_documents

VOCAB = 5
Integers = npt.NDArray[np.integer[Any]]


def joined(texts: list[list[int]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    bounds = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return np.array([id_ for text in texts for id_ in text], dtype=np.uint32), bounds


def twin(
    ids: npt.NDArray[np.uint32], bounds: npt.NDArray[np.int64], *, eos_id: int | None, dtype: Any
) -> int | tuple[Integers, Integers]:
    if ids.size and ids.max() >= VOCAB:
        return int(ids.max())
    texts = np.split(ids, bounds[1:-1]) if bounds.size > 1 else []
    if eos_id is not None:
        texts = [t if t.size and t[-1] == eos_id else np.append(t, eos_id) for t in texts]
    texts = [text for text in texts if text.size]
    lengths = np.array([text.size for text in texts], dtype=np.int32)
    return np.concatenate([np.zeros(0), *texts]).astype(dtype), lengths


@given(
    texts=st.lists(st.lists(st.integers(0, VOCAB), max_size=6), max_size=6),
    eos_id=st.none() | st.integers(0, VOCAB - 1),
    dtype=st.sampled_from([np.dtype(np.uint16), np.dtype(np.int32)]),
)
def test_tokens_and_lengths_are_those_of_the_twin(
    texts: list[list[int]], eos_id: int | None, dtype: np.dtype[Any]
) -> None:
    ids, bounds = joined(texts)
    found = end_documents(ids, bounds, eos_id=eos_id, vocab_size=VOCAB, dtype=dtype)
    expected = twin(ids, bounds, eos_id=eos_id, dtype=dtype)
    if isinstance(found, int) or isinstance(expected, int):
        assert found == expected
        return
    assert [array.dtype for array in found] == [dtype, np.int32]
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bounds": [0, 2]}, "from 0 to the number of ids"),
        ({"bounds": [1, 3]}, "from 0 to the number of ids"),
        ({"bounds": []}, "from 0 to the number of ids"),
        ({"bounds": [0, 9, 3]}, "ends before it begins"),
        ({"bounds": [0, -1, 3]}, "ends before it begins"),
        ({"eos_id": VOCAB}, "eos_id must be in the vocabulary"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"vocab_size": 65_537}, "must fit the type"),
        ({"dtype": np.dtype(np.int64)}, "dtype must be uint16 or int32"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    arguments = {"bounds": [0, 3], "eos_id": 0, "vocab_size": VOCAB, "dtype": np.dtype(np.uint16)}
    arguments |= changed
    bounds = np.array(arguments.pop("bounds"), dtype=np.int64)
    with pytest.raises(ValueError, match=message):
        end_documents(np.array([1, 2, 3], dtype=np.uint32), bounds, **arguments)


def test_arrays_of_other_types_are_refused() -> None:
    ids, bounds = joined([[1], [2]])
    settings = {"eos_id": 0, "vocab_size": VOCAB, "dtype": np.dtype(np.uint16)}
    with pytest.raises(ValueError, match="ids must be a contiguous array"):
        end_documents(ids.astype(np.int64), bounds, **settings)
    with pytest.raises(ValueError, match="ids must be a contiguous array"):
        end_documents(np.zeros(4, dtype=np.uint32)[::2], bounds, **settings)
    with pytest.raises(ValueError, match="bounds must be a contiguous array"):
        end_documents(ids, bounds.astype(np.int32), **settings)
