# SPDX-License-Identifier: Apache-2.0
"""The cut takes all of every file once, and depends on nothing but the files."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.pieces import PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECES, cut, piece_bytes


def file(size: int, *, name: str = "a.jsonl") -> SourceFile:
    return SourceFile(path=name, format=FileFormat.jsonl, bytes=size, modified_ns=0)


@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=40), size=st.integers(1, 90))
def test_all_of_every_file_is_taken_once(sizes: list[int], size: int) -> None:
    pieces = cut([file(n) for n in sizes], size=size)
    extents = [extent for piece in pieces for extent in piece]
    for number, expected in enumerate(sizes):
        taken = [extent for extent in extents if extent.file == number]
        assert taken[0].start == 0
        assert taken[-1].stop == expected
        assert all(one.stop == other.start for one, other in itertools.pairwise(taken))
    assert [extent.file for extent in extents] == sorted(extent.file for extent in extents)
    assert all(sum(extent.bytes for extent in piece) <= size for piece in pieces)


def test_compressed_files_are_whole() -> None:
    (first,), (second, third) = cut(
        [file(1000, name="a.jsonl.gz"), file(5, name="b.jsonl.zst"), file(5)], size=10
    )
    assert (first.start, first.stop) == (0, 1000)
    assert (second.file, third.file) == (1, 2)


def test_piece_sizes_are_powers_of_two_within_bounds() -> None:
    for total in (0, 10**6, 10**9, 10**10, 10**11, 10**12, 10**13):
        size = piece_bytes(total)
        assert PIECE_BYTES_MIN <= size <= PIECE_BYTES_MAX
        assert size & (size - 1) == 0
        assert total <= size * PIECES or size == PIECE_BYTES_MAX
    assert piece_bytes(PIECE_BYTES_MIN * PIECES) == PIECE_BYTES_MIN
    assert piece_bytes(PIECE_BYTES_MIN * PIECES + 1) == 2 * PIECE_BYTES_MIN
