# SPDX-License-Identifier: Apache-2.0
"""Rows filled in C++ against a twin in NumPy: any spans, documents, padding, dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt import _C
from megacpt.errors import DataError
from megacpt.samples.batch import Batch, Row, make_batch
from megacpt.shards.reader import IndexedShard, write_shard

in_one_folder = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Case:
    documents: list[int]
    """Lengths; the id at place n is n + 1, so that no token looks like padding."""
    spans: list[tuple[int, int]]
    joined: bool
    length: int
    large_ids: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    documents = draw(st.lists(st.integers(0, 12), min_size=1, max_size=8))
    total = sum(documents)
    joined = draw(st.booleans())
    ends = st.tuples(st.integers(0, total), st.integers(0, total)).map(sorted)
    spans = [(a, b) for a, b in draw(st.lists(ends, max_size=4)) if a < b]
    inputs = sum(b - a - (not joined) for a, b in spans) - joined
    length = max(inputs, 1) + draw(st.integers(0, 5))
    return Case(documents, spans, joined, length, draw(st.booleans()))


def shard_of(folder: Path, case: Case) -> IndexedShard:
    ends = np.cumsum([0, *case.documents])
    shift = 70_000 if case.large_ids else 1
    documents = [np.arange(a, b) + shift for a, b in pairwise(ends.tolist())]
    return write_shard(
        folder / "s", documents=documents, vocab_size=80_000 if case.large_ids else 5_000
    )


def row_twin(
    shard: IndexedShard, case: Case, *, document_mask: bool
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, labels, positions and bounds, token by token."""
    stream = shard.span(0, stop=shard.num_tokens).tolist()
    starts = set(np.cumsum([0, *case.documents]).tolist())
    texts = [list(range(a, b)) for a, b in case.spans]
    tokens, labels, new = [], [], []
    for text in [list(chain(*texts))] if case.joined else texts:
        for n, (at, following) in enumerate(pairwise(text)):
            tokens.append(stream[at])
            labels.append(stream[following])
            new.append(n == 0 or at in starts)
    if case.joined:
        place = 0
        for text in texts:
            if place < len(new):
                new[place] = True
            place += len(text)
    padding = case.length - len(tokens)
    new += [True] * min(padding, 1) + [False] * (padding - 1)
    bounds = sorted({0, case.length, *(n for n, is_new in enumerate(new) if is_new)})
    bounds = bounds if document_mask else [0, case.length]
    positions = [n - max(b for b in bounds if b <= n) for n in range(case.length)]
    return tokens, labels, positions, bounds


@given(case=cases(), document_mask=st.booleans())
@in_one_folder
def test_rows_equal_their_twin(tmp_path: Path, case: Case, document_mask: bool) -> None:
    shard = shard_of(tmp_path, case)
    starts, stops = (np.array([span[n] for span in case.spans], dtype=np.int64) for n in (0, 1))
    as_arrays = Row(shard, 3, starts, stops, case.joined)
    as_lists = Row(shard, 5, starts.tolist(), stops.tolist(), case.joined)
    batch = make_batch(
        [as_arrays, as_lists], sequence_length=case.length, document_mask=document_mask
    )
    tokens, labels, positions, bounds = row_twin(shard, case, document_mask=document_mask)
    padding = [0] * (case.length - len(tokens))
    for b in range(2):
        assert batch.tokens_BS[b].tolist() == tokens + padding
        assert batch.labels_BS[b].tolist() == labels + padding
        assert batch.loss_mask_BS[b].tolist() == [1.0] * len(tokens) + [0.0] * len(padding)
        assert batch.positions_BS[b].tolist() == positions
        assert batch.cu_seqlens[b].tolist() == bounds
    assert batch.source_ids_B.tolist() == [3, 5]


def test_types_and_that_the_arrays_are_the_caller_s(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s", documents=[[1, 2, 3, 4]], vocab_size=10)
    row = Row(shard, 0, [0], [4])
    batch = make_batch([row, row], sequence_length=3)
    names = [array.dtype.name for array in arrays(batch)]
    assert names == ["int64", "int64", "float32", "int64", "int64", "int32", "int32"]
    kept = batch.tokens_BS
    kept[:] = 9
    again = [make_batch([row, row], sequence_length=3) for _ in range(20)]
    assert kept.tolist() == [[9, 9, 9]] * 2
    assert all(other.tokens_BS.tolist() == [[1, 2, 3]] * 2 for other in again)
    del batch, again
    assert kept.tolist() == [[9, 9, 9]] * 2


def arrays(batch: Batch) -> list[npt.NDArray[Any]]:
    return [
        batch.tokens_BS,
        batch.labels_BS,
        batch.loss_mask_BS,
        batch.positions_BS,
        batch.source_ids_B,
        *batch.cu_seqlens,
    ]


def test_a_document_starts_after_the_last_token_of_another_not_after_an_eos(
    tmp_path: Path,
) -> None:
    """End-of-text ids inside a document, and documents without one; both are targets."""
    shard = write_shard(tmp_path / "s", documents=[[5, 0, 6, 0], [7, 8], [], [9, 0]], vocab_size=10)
    batch = make_batch([Row(shard, 0, [0], [8])], sequence_length=8, document_mask=True)
    assert batch.cu_seqlens[0].tolist() == [0, 4, 6, 7, 8]
    assert batch.positions_BS.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0]]
    assert batch.labels_BS.tolist() == [[0, 6, 0, 7, 8, 9, 0, 0]]
    assert batch.loss_mask_BS.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]


def test_a_row_of_documents_that_ends_with_one_has_no_empty_document(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s", documents=[[1, 2, 3], [4, 5, 6]], vocab_size=10)
    batch = make_batch([Row(shard, 0, [0, 3], [3, 6])], sequence_length=4, document_mask=True)
    assert batch.cu_seqlens[0].tolist() == [0, 2, 4]
    assert batch.labels_BS.tolist() == [[2, 3, 5, 6]]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(-1, 3)], "span -1..3 is not within its 6 tokens"),
        ([(4, 7)], "span 4..7 is not within its 6 tokens"),
        ([(0, 2), (5, 4)], "span 5..4 is not within its 6 tokens"),
        ([(0, 6), (0, 6)], r"a sample of 5 tokens cannot be made of the pieces \[\(0, 6\)"),
        ([(2, 2)], r"cannot be made of the pieces \[\(2, 2\)\]; pack the shard again"),
    ],
)
def test_pieces_that_cannot_be_are_named(
    tmp_path: Path, spans: list[tuple[int, int]], message: str, joined: bool
) -> None:
    shard = write_shard(tmp_path / "s", documents=[[1, 2, 3], [4, 5, 6]], vocab_size=10)
    starts, stops = (list(ends) for ends in zip(*spans, strict=True))
    with pytest.raises(DataError, match=message):
        make_batch([Row(shard, 0, starts, stops, joined)], sequence_length=5)


@given(data=st.data())
@in_one_folder
def test_a_broken_index_gives_an_error_or_sound_bounds(tmp_path: Path, data: st.DataObject) -> None:
    """The tokens do not depend on it, and where documents begin is checked where it is read."""
    prefix = tmp_path / "s"
    write_shard(prefix, documents=[[1, 2, 3], [4], [5, 6], [7, 8, 9]], vocab_size=10)
    idx = bytearray(Path(f"{prefix}.idx").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        idx[data.draw(st.integers(34, len(idx) - 1))] = data.draw(st.integers(0, 255))
    Path(f"{prefix}.idx").write_bytes(idx)
    try:
        row = Row(IndexedShard(prefix), 0, [0], [9])
        batch = make_batch([row], sequence_length=10, document_mask=True)
    except DataError:
        return
    assert batch.tokens_BS.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0, 0]]
    bounds = batch.cu_seqlens[0].tolist()
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-1]) == (0, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tokens": np.zeros(3, dtype=np.float32)},
            "tokens must be int8 to int64, uint8 or",
        ),
        ({"tokens": np.zeros((2, 2), dtype=np.int32)}, "tokens must be a contiguous array of one"),
        ({"offsets": np.zeros(2, dtype=np.int32)}, "offsets must be a contiguous array of one"),
        ({"bounds": np.zeros(0, dtype=np.int64)}, "bounds must not be empty"),
    ],
)
def test_wrong_arrays_are_named(arguments: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {
        "tokens": np.zeros(3, dtype=np.int32),
        "offsets": np.zeros(1, dtype=np.int64),
        "bounds": np.array([0, 1]),
    }
    given_ = sound | arguments
    with pytest.raises(ValueError, match=message):
        _C.TokenStream(given_.pop("tokens"), **given_, id_limit=5)


def test_a_file_is_mapped_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(b"abc")
    (tmp_path / "none").touch()
    for scattered in (False, True):
        assert (
            bytes(memoryview(_C.MappedFile(str(tmp_path / "some"), scattered=scattered))) == b"abc"
        )
        assert bytes(memoryview(_C.MappedFile(str(tmp_path / "none"), scattered=scattered))) == b""
    with pytest.raises(FileNotFoundError, match="gone"):
        _C.MappedFile(str(tmp_path / "gone"))
    with pytest.raises(IsADirectoryError):
        _C.MappedFile(str(tmp_path))


@pytest.mark.parametrize("joined", [False, True])
def test_a_mask_says_which_targets_count(tmp_path: Path, joined: bool) -> None:
    """Tokens are their own numbers, so that a label says which byte of the mask is its own."""
    shard = write_shard(tmp_path / "s", documents=[np.arange(5), np.arange(5, 9)], vocab_size=9)
    mask_T = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1], dtype=np.uint8)
    row = Row(shard, 1, [0, 5], [5, 9], joined)
    batch = make_batch([row, row._replace(source_id=0)], sequence_length=10, masks={1: mask_T})
    own_S, whole_S = batch.loss_mask_BS
    counted = whole_S == 1
    assert own_S[counted].tolist() == mask_T[batch.labels_BS[0][counted]].tolist()
    assert not own_S[~counted].any()
    assert counted.sum() == (8 if joined else 7)
