# SPDX-License-Identifier: Apache-2.0
"""What a forward pass needs, as NumPy arrays, and how a window of a token stream becomes one row.

Shapes: B samples, S sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    source_ids_B: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """Which tokens of which shard fill a row: inputs ``start..stop-1``, targets one further."""

    shard: IndexedShard
    source_id: int
    start: int
    stop: int


def make_batch(windows: Sequence[Window], *, sequence_length: int) -> Batch:
    """One row a window; a window shorter than the row is padded with token 0 and masked."""
    shape = (len(windows), sequence_length)
    batch = Batch(
        tokens_BS=np.zeros(shape, dtype=np.int64),
        labels_BS=np.zeros(shape, dtype=np.int64),
        loss_mask_BS=np.zeros(shape, dtype=np.float32),
        source_ids_B=np.array([window.source_id for window in windows], dtype=np.int64),
    )
    for row, window in enumerate(windows):
        length = window.stop - window.start
        tokens = window.shard.ids(window.start, window.stop + 1)
        batch.tokens_BS[row, :length] = tokens[:-1]
        batch.labels_BS[row, :length] = tokens[1:]
        batch.loss_mask_BS[row, :length] = 1.0
    return batch
