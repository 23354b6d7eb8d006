# SPDX-License-Identifier: Apache-2.0
"""Best fit decreasing against a twin that looks at every row, and what all its rows must keep."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import PackedRows, best_fit

Integers = npt.NDArray[Any]
Pieces = list[tuple[int, int]]
Arguments = dict[str, Any]


def arguments(lengths: list[int], *, sequence_length: int, item_bytes: int = 2) -> Arguments:
    """As the index of a shard with these documents has them."""
    starts = np.cumsum([0, *lengths])
    return {
        "offsets": starts[:-1].astype(np.int64) * item_bytes,
        "bounds": np.arange(len(lengths) + 1, dtype=np.int64),
        "item_bytes": item_bytes,
        "num_tokens": int(starts[-1]),
        "sequence_length": sequence_length,
    }


def rows_of(lengths: list[int], *, sequence_length: int) -> list[Pieces]:
    row_ends, _, starts, inputs, *_ = best_fit(
        **arguments(lengths, sequence_length=sequence_length)
    )
    pieces = list(zip(starts.tolist(), inputs.tolist(), strict=True))
    ends = row_ends.tolist()
    return [pieces[i:j] for i, j in pairwise(ends)]


def pieces_of(lengths: list[int], *, sequence_length: int) -> Pieces:
    """In the order of the text."""
    pieces, start = [], 0
    for length in lengths:
        for at in range(0, length - 1, sequence_length):
            pieces.append((start + at, min(sequence_length, length - 1 - at)))
        start += length
    return pieces


def best_fit_twin(lengths: list[int], *, sequence_length: int) -> list[Pieces]:
    """Of rows with equal room, the one that got it last."""
    rows: list[Pieces] = []
    room: list[tuple[int, int]] = []
    for turn, piece in enumerate(
        sorted(pieces_of(lengths, sequence_length=sequence_length), key=lambda p: -p[1])
    ):
        fitting = [(left, -since, k) for k, (left, since) in enumerate(room) if left >= piece[1]]
        if fitting:
            k = min(fitting)[2]
        else:
            k = len(rows)
            rows.append([])
            room.append((sequence_length, turn))
        rows[k].append(piece)
        room[k] = (room[k][0] - piece[1], turn)
    return [sorted(row) for row in rows]


lengths_ = st.lists(st.integers(0, 40) | st.sampled_from([0, 1, 2, 9, 10, 11]), max_size=60)


@given(lengths=lengths_, sequence_length=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_rows_equal_their_twin(lengths: list[int], sequence_length: int) -> None:
    rows = rows_of(lengths, sequence_length=sequence_length)
    assert rows == best_fit_twin(lengths, sequence_length=sequence_length)


@pytest.mark.parametrize("sequence_length", [63, 64, 65, 4096, 4097, 300_000])
def test_rows_equal_their_twin_across_the_levels_of_the_set(sequence_length: int) -> None:
    rng = np.random.default_rng(sequence_length)
    lengths = (rng.random(300) ** 3 * 1.5 * sequence_length).astype(int).tolist()
    rows = rows_of(lengths, sequence_length=sequence_length)
    assert rows == best_fit_twin(lengths, sequence_length=sequence_length)


@given(lengths=lengths_, sequence_length=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_every_target_once_and_no_document_that_fits_is_cut(
    lengths: list[int], sequence_length: int
) -> None:
    rows = rows_of(lengths, sequence_length=sequence_length)
    pieces = [piece for row in rows for piece in row]
    targets = sorted(start + 1 + n for start, inputs in pieces for n in range(inputs))
    ends = np.cumsum([0, *lengths])
    expected = [t for i, j in pairwise(ends) for t in range(i + 1, j)]
    assert targets == expected
    assert all(sum(inputs for _, inputs in row) <= sequence_length for row in rows)
    whole = {(int(i), int(j - i - 1)) for i, j in pairwise(ends) if j - i > 1}
    assert {piece for piece in whole if piece[1] <= sequence_length} <= set(pieces)
    assert all(row == sorted(row) for row in rows)


def first_fit(lengths: list[int], *, sequence_length: int) -> int:
    """Rows it takes, documents in the order of the text."""
    room: list[int] = []
    for _, inputs in pieces_of(lengths, sequence_length=sequence_length):
        k = next((k for k, left in enumerate(room) if left >= inputs), len(room))
        if k == len(room):
            room.append(sequence_length)
        room[k] -= inputs
    return len(room)


@pytest.mark.parametrize("seed", range(12))
def test_it_fills_at_least_as_well_as_first_fit(seed: int) -> None:
    """On lengths as texts have them; there are contrived ones on which first fit is lucky."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(rng.uniform(2, 5), rng.uniform(0.3, 1.5), size=800).astype(int).tolist()
    length = int(rng.choice([64, 128, 512]))
    rows = rows_of(lengths, sequence_length=length)
    assert len(rows) <= first_fit(lengths, sequence_length=length)


@given(lengths=lengths_.filter(lambda n: any(m > 1 for m in n)), sequence_length=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_rows_are_read_back(lengths: list[int], sequence_length: int) -> None:
    values = arguments(lengths, sequence_length=sequence_length)
    packed = PackedRows(*best_fit(**values)[:4])
    for k, row in enumerate(rows_of(lengths, sequence_length=sequence_length)):
        starts, stops = packed.row(
            k, sequence_length=sequence_length, num_tokens=values["num_tokens"]
        )
        assert starts.tolist() == [start for start, _ in row]
        assert stops.tolist() == [start + inputs + 1 for start, inputs in row]


def test_counts_of_documents_cut_and_left_out() -> None:
    *_, cut, left_out = best_fit(**arguments([0, 1, 2, 11, 12, 40], sequence_length=10))
    assert (cut, left_out) == (2, 2)


def read_all(packed: PackedRows, **limits: int) -> None:
    for k in range(3):
        packed.row(k, **limits)


@pytest.mark.parametrize(
    ("array", "place", "value"),
    [
        (array, place, value)
        for array, size in enumerate([4, 3, 4, 4])
        for place in range(size)
        for value in (0, 1, -1, 2**31 - 1)
    ],
)
def test_no_changed_number_passes(array: int, place: int, value: int) -> None:
    values = arguments([5, 5, 5, 2], sequence_length=5)
    arrays = [a.copy() for a in best_fit(**values)[:4]]
    assert [a.size for a in arrays] == [4, 3, 4, 4]
    changed = np.array(value).astype(arrays[array].dtype)
    if arrays[array][place] == changed:
        return
    arrays[array][place] = changed
    packed = PackedRows(*arrays)
    with pytest.raises(ValueError, match="a row "):
        read_all(packed, sequence_length=5, num_tokens=values["num_tokens"])


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_named(row: int) -> None:
    values = arguments([5, 5, 5, 2], sequence_length=5)
    with pytest.raises(IndexError, match=f"row {row} of 3"):
        PackedRows(*best_fit(**values)[:4]).row(row, sequence_length=5, num_tokens=17)


@pytest.mark.parametrize(
    "limits", [{"sequence_length": 3, "num_tokens": 17}, {"sequence_length": 5, "num_tokens": 9}]
)
def test_rows_of_another_length_or_shard_are_refused(limits: dict[str, int]) -> None:
    packed = PackedRows(*best_fit(**arguments([5, 5, 5, 2], sequence_length=5))[:4])
    with pytest.raises(ValueError, match="does not fit its length or its shard"):
        read_all(packed, **limits)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sequence_length": 0}, r"sequence_length must be in 1..2\^24, got 0"),
        ({"sequence_length": 2**24 + 1}, r"sequence_length must be in 1..2\^24"),
        ({"item_bytes": 0}, "there must be document bounds, bytes a token and tokens"),
        ({"num_tokens": -1}, "there must be document bounds"),
        ({"bounds": np.zeros(0, np.int64)}, "there must be document bounds"),
        ({"bounds": np.array([0, 9])}, "document 1 begins at sequence 9, which is not there"),
        ({"bounds": np.array([-1, 2])}, "document 0 begins at sequence -1"),
        ({"bounds": np.array([1, 0, 2])}, "a document ends before it begins"),
        ({"offsets": np.array([0, 2**40])}, f"document 1 begins at token {2**39}"),
        ({"offsets": np.array([0, -8])}, "document 1 begins at token -4"),
        ({"offsets": np.zeros(2, np.int32)}, "offsets must be a contiguous array"),
        ({"bounds": np.zeros((2, 2), np.int64)}, "bounds must be a contiguous array"),
    ],
)
def test_an_index_that_cannot_be_is_refused(changed: Arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_fit(**(arguments([5, 5], sequence_length=4) | changed))
