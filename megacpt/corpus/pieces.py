# SPDX-License-Identifier: Apache-2.0
"""Cut a corpus into pieces that are tokenized apart, on any worker or machine, in any order.

The cut depends on the files alone. A plain JSONL file is cut at multiples of the piece size (a line
belongs to the piece it begins in), Parquet at row groups; all other files are whole.
Small files share a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.parquet import row_group_bytes

PIECE_BYTES_MIN = 1 << 23
PIECE_BYTES_MAX = 1 << 30
PIECES = 1024
"""Most pieces, about, unless single pieces would be larger than PIECE_BYTES_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a piece takes of one file: bytes ``start .. stop-1``, of Parquet row groups."""

    file: int
    start: int
    stop: int
    bytes: int


Piece = tuple[Extent, ...]


def piece_bytes(total_bytes: int) -> int:
    """A power of two, so that it is the same for corpora of about the same size."""
    size = PIECE_BYTES_MIN
    while size < PIECE_BYTES_MAX and size * PIECES < total_bytes:
        size *= 2
    return size


def cut(files: Sequence[SourceFile], *, size: int) -> list[Piece]:
    """All of every file once, in order; a piece has at least one extent."""
    pieces: list[Piece] = []
    extents: list[Extent] = []
    taken = 0
    for number, file in enumerate(files):
        for extent in _extents(number, file=file, size=size):
            if extents and taken + extent.bytes > size:
                pieces.append(tuple(extents))
                extents, taken = [], 0
            extents.append(extent)
            taken += extent.bytes
    return [*pieces, tuple(extents)] if extents else pieces


def _extents(number: int, *, file: SourceFile, size: int) -> Iterator[Extent]:
    if file.format is FileFormat.parquet:
        yield from _row_groups(number, weights=row_group_bytes(file.path), size=size)
    elif file.format is FileFormat.jsonl and not file.ending:
        for start in range(0, max(file.bytes, 1), size):
            stop = min(start + size, file.bytes)
            yield Extent(file=number, start=start, stop=stop, bytes=stop - start)
    else:
        yield Extent(file=number, start=0, stop=file.bytes, bytes=file.bytes)


def _row_groups(number: int, *, weights: Sequence[int], size: int) -> Iterator[Extent]:
    """Consecutive row groups up to ``size``; one at least."""
    start = taken = 0
    for group, weight in enumerate(weights):
        if group > start and taken + weight > size:
            yield Extent(file=number, start=start, stop=group, bytes=taken)
            start, taken = group, 0
        taken += weight
    yield Extent(file=number, start=start, stop=len(weights), bytes=taken)
