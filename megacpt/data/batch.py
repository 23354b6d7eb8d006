# SPDX-License-Identifier: Apache-2.0
"""What a forward pass needs, as NumPy arrays, and how pieces of a token stream become one row.

Shapes: B samples, S sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megacpt.data.indexed import IndexedShard


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples with their targets; the caller may write into the arrays."""

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]
    """The token after each one; end-of-text tokens are targets like any other."""
    loss_mask_BS: npt.NDArray[np.float32]
    """1 where the label counts, 0 in padding."""
    positions_BS: npt.NDArray[np.int64]
    """0 .. S-1; with a document mask they start again at each document."""
    source_ids_B: npt.NDArray[np.int64]
    cu_seqlens: tuple[npt.NDArray[np.int32], ...]
    """Of each row: 0, the start of every further document among its inputs, S; strictly rising.
    Padding is a document of its own. Without a document mask only 0 and S."""


@dataclass(frozen=True, slots=True)
class Row:
    """Which tokens of which shard fill a row.

    Piece i is tokens ``starts[i] .. stops[i]-1`` of all documents laid end to end. Unless
    ``joined``, each piece of n+1 tokens gives n inputs and n targets of its own: its last token is
    a target only. Joined pieces are one text of S+1 tokens, and so have one such token together.
    """

    shard: IndexedShard
    source_id: int
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    joined: bool = False


def make_batch(rows: Sequence[Row], *, sequence_length: int, document_mask: bool = False) -> Batch:
    """A row shorter than ``sequence_length`` is padded with token 0 and masked."""
    shape = (len(rows), sequence_length)
    batch = Batch(
        tokens_BS=np.zeros(shape, dtype=np.int64),
        labels_BS=np.zeros(shape, dtype=np.int64),
        loss_mask_BS=np.zeros(shape, dtype=np.float32),
        positions_BS=np.tile(np.arange(sequence_length), (len(rows), 1)),
        source_ids_B=np.array([row.source_id for row in rows], dtype=np.int64),
        cu_seqlens=tuple(_document_ends(row, sequence_length, document_mask) for row in rows),
    )
    for b, row in enumerate(rows):
        _fill(batch, b, row)
        bounds = batch.cu_seqlens[b]
        for start, stop in pairwise(bounds.tolist()):
            batch.positions_BS[b, start:stop] = np.arange(stop - start)
    return batch


def _fill(batch: Batch, b: int, row: Row) -> None:
    pieces = [row.shard.ids(int(i), int(j)) for i, j in zip(row.starts, row.stops, strict=True)]
    if row.joined:
        pieces = [np.concatenate(pieces)]
    at = 0
    for ids in pieces:
        end = at + ids.size - 1
        batch.tokens_BS[b, at:end] = ids[:-1]
        batch.labels_BS[b, at:end] = ids[1:]
        batch.loss_mask_BS[b, at:end] = 1.0
        at = end


def _document_ends(row: Row, length: int, document_mask: bool) -> npt.NDArray[np.int32]:
    found = {0, length}
    at = 0
    for start, stop in zip(row.starts.tolist(), row.stops.tolist(), strict=True):
        if document_mask:
            inside = row.shard.document_starts(start + 1, stop)
            found |= {at, *(at + inside - start).tolist()}
        at += stop - start - (not row.joined)
    if document_mask:
        found.add(at - row.joined)
    return np.array(sorted(n for n in found if n <= length), dtype=np.int32)
