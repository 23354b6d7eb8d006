# SPDX-License-Identifier: Apache-2.0
"""A batch as tensors: made on the host, ahead of time, then moved to the rank's device.

Shapes: B microbatch size, S sequence length; with context parallelism the part of it that is this
rank's (megacpt.model.layers.attention.context_parallel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacpt.device import runtime
from megacpt.model.layers.attention import context_parallel
from megacpt.samples.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Where documents start when the rows lie end to end; attention stays within each."""

    bounds: torch.Tensor
    """0, the start of every further document or row, B * S (int32)."""
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """What a forward pass takes and what its loss is counted by."""

    tokens_BS: torch.Tensor
    labels_BS: torch.Tensor
    loss_mask_BS: torch.Tensor
    positions_BS: torch.Tensor
    source_ids_B: torch.Tensor
    documents: Documents | None
    """None: a token sees all of its row that is before it, across documents."""

    @property
    def model_shape(self) -> tuple[int, int]:
        """How the model takes the tokens: masked documents as one row of all rows end to end."""
        samples, length = self.tokens_BS.shape
        return (samples, length) if self.documents is None else (1, samples * length)

    def to(self, device: torch.device) -> Microbatch:
        """From page-locked memory the copy runs while the host goes on."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        documents = self.documents
        if documents is not None:
            documents = Documents(bounds=move(documents.bounds), longest=documents.longest)
        return Microbatch(
            tokens_BS=move(self.tokens_BS),
            labels_BS=move(self.labels_BS),
            loss_mask_BS=move(self.loss_mask_BS),
            positions_BS=move(self.positions_BS),
            source_ids_B=move(self.source_ids_B),
            documents=documents,
        )


def host_microbatch(batch: Batch, *, document_mask: bool, device: torch.device) -> Microbatch:
    """Tensors on the host, in memory from which a copy to ``device`` is fast."""

    def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
        return runtime.page_locked(torch.from_numpy(array), device=device)

    def own_part(array_BS: npt.NDArray[Any]) -> torch.Tensor:
        part_BS = context_parallel.own_part(torch.from_numpy(array_BS), dim=1)
        return runtime.page_locked(part_BS, device=device)

    documents = None
    if document_mask:
        assert context_parallel.size() == 1
        bounds = _flat_bounds(batch)
        documents = Documents(bounds=tensor(bounds), longest=int(np.diff(bounds).max()))
    return Microbatch(
        tokens_BS=own_part(batch.tokens_BS),
        labels_BS=own_part(batch.labels_BS),
        loss_mask_BS=own_part(batch.loss_mask_BS),
        positions_BS=own_part(batch.positions_BS),
        source_ids_B=tensor(batch.source_ids_B),
        documents=documents,
    )


def _flat_bounds(batch: Batch) -> npt.NDArray[np.int32]:
    """The bounds within each row as bounds of the rows laid end to end."""
    samples, length = batch.tokens_BS.shape
    starts = [row[:-1] + n * length for n, row in enumerate(batch.cu_seqlens)]
    return np.concatenate([*starts, [samples * length]]).astype(np.int32)
