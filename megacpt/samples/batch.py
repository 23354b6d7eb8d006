# SPDX-License-Identifier: Apache-2.0
"""What a forward pass needs, as NumPy arrays, and how spans of a token stream become one row.

Shapes: B samples, S sequence length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.errors import DataError
from megacpt.shards.loss_mask import LossMask
from megacpt.shards.reader import IndexedShard


@dataclass(slots=True, kw_only=True)
class Batch:
    """Samples with their targets; the caller may write into the arrays."""

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]
    """The token after each one; end-of-text tokens are targets like any other."""
    loss_mask_BS: npt.NDArray[np.float32]
    """1 where the label counts, 0 in padding and where a source's mask has 0 for it."""
    positions_BS: npt.NDArray[np.int64]
    """0 .. S-1; with a document mask they start again at each document."""
    source_ids_B: npt.NDArray[np.int64]
    cu_seqlens: tuple[npt.NDArray[np.int32], ...]
    """Bounds in each row: 0, the start of every further document of its inputs, S; strictly rising.
    Padding is a document of its own. Without a document mask only 0 and S."""


Places = npt.NDArray[np.int64] | list[int]


class Row(NamedTuple):
    """Which tokens of which shard fill a row.

    Span i is tokens ``starts[i] .. stops[i]-1`` of all documents laid end to end. Unless
    ``joined``, each span of n+1 tokens gives n inputs and n targets of its own: its last token is
    a target only. Joined spans are one text of S+1 tokens, and so have one such token together.
    """

    shard: IndexedShard
    source_id: int
    starts: Places
    stops: Places
    joined: bool = False


Masks = Mapping[int, LossMask]
"""Source id -> which of its tokens are learned; all of a source that is not there."""
NO_MASKS: Masks = MappingProxyType({})


def make_batch(
    rows: list[Row],
    *,
    sequence_length: int,
    document_mask: bool = False,
    masks: Masks = NO_MASKS,
) -> Batch:
    """A row shorter than ``sequence_length`` is padded with token 0 and masked.

    Raises DataError where a row's ids are not within the vocabulary of its shard.
    """
    filled = _C.fill_batch(rows, sequence_length=sequence_length, document_mask=document_mask)
    if isinstance(filled, int):
        raise _fault(rows[filled], sequence_length=sequence_length)
    tokens_BS, labels_BS, loss_mask_BS, positions_BS, source_ids_B, cu_seqlens = filled
    if masks:
        _apply(masks, rows=rows, loss_mask_BS=loss_mask_BS)
    return Batch(
        tokens_BS=tokens_BS,
        labels_BS=labels_BS,
        loss_mask_BS=loss_mask_BS,
        positions_BS=positions_BS,
        source_ids_B=source_ids_B,
        cu_seqlens=cu_seqlens,
    )


def _apply(masks: Masks, *, rows: list[Row], loss_mask_BS: npt.NDArray[np.float32]) -> None:
    for row, loss_mask_S in zip(rows, loss_mask_BS, strict=True):
        if row.source_id in masks:
            learned = _targets(row, mask_T=masks[row.source_id])
            loss_mask_S[: learned.size] = learned


def _targets(row: Row, *, mask_T: LossMask) -> LossMask:
    """The mask of what the row predicts, in its order."""
    spans = zip(row.starts, row.stops, strict=True)
    if row.joined:
        return np.concatenate([mask_T[start:stop] for start, stop in spans])[1:]
    return np.concatenate([mask_T[start + 1 : stop] for start, stop in spans])


def _fault(row: Row, *, sequence_length: int) -> DataError:
    """What is wrong with a row that could not be filled; most often its shard says it itself."""
    spans = [(int(i), int(j)) for i, j in zip(row.starts, row.stops, strict=True)]
    for start, stop in spans:
        row.shard.ids(start, stop=stop)
        row.shard.document_starts(start, stop=stop)
    return DataError(
        f"{row.shard.prefix}: a sample of {sequence_length} tokens cannot be made of the pieces "
        f"{spans}; pack the shard again."
    )
