# SPDX-License-Identifier: Apache-2.0
"""What a forward pass needs, as NumPy arrays, and how pieces of a token stream become one row.

Shapes: B samples, S sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.data.indexed import IndexedShard
from megacpt.errors import DataError


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
    """A row shorter than ``sequence_length`` is padded with token 0 and masked.

    Raises DataError where a row's ids are not within the vocabulary of its shard.
    """
    filled = _C.fill_batch(
        [(row.shard.stream, row.starts, row.stops, row.joined) for row in rows],
        sequence_length=sequence_length,
        document_mask=document_mask,
    )
    if isinstance(filled, int):
        raise _fault(rows[filled], sequence_length)
    tokens_BS, labels_BS, loss_mask_BS, positions_BS, cu_seqlens = filled
    return Batch(
        tokens_BS=tokens_BS,
        labels_BS=labels_BS,
        loss_mask_BS=loss_mask_BS,
        positions_BS=positions_BS,
        source_ids_B=np.array([row.source_id for row in rows], dtype=np.int64),
        cu_seqlens=cu_seqlens,
    )


def _fault(row: Row, sequence_length: int) -> DataError:
    """What is wrong with a row that could not be filled; most often its shard says it itself."""
    pieces = list(zip(row.starts.tolist(), row.stops.tolist(), strict=True))
    for start, stop in pieces:
        row.shard.ids(start, stop)
        row.shard.document_starts(start, stop)
    return DataError(
        f"{row.shard.prefix}: a sample of {sequence_length} tokens cannot be made of the pieces "
        f"{pieces}; pack the shard again."
    )
