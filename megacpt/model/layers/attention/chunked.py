# SPDX-License-Identifier: Apache-2.0
"""Core attention within chunks: of its document, cut into pieces of one size from the first token
on, a token sees those before it of its own piece.

Shapes: S sequence, B batch, H query heads and K key-value heads of this rank, D head size.
"""

from __future__ import annotations

import torch

from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.model.layers.attention.causal import CausalAttention


class ChunkedAttention(CausalAttention):
    chunk: int
    takes_any_mask = False

    def causal(
        self, q_SBHD: torch.Tensor, *, k_SBKD: torch.Tensor, v_SBKD: torch.Tensor
    ) -> torch.Tensor:
        """Queries are the last of the keys' positions; the first of them may be within a chunk."""
        before, outs = len(k_SBKD) - len(q_SBHD), []
        for start in range(before - before % self.chunk, len(k_SBKD), self.chunk):
            seen = slice(start, start + self.chunk)
            own = slice(max(start, before) - before, start + self.chunk - before)
            outs.append(self._attention(q_SBHD[own], k_SBKD=k_SBKD[seen], v_SBKD=v_SBKD[seen]))
        return torch.cat(outs)


def chunked_class(chunk: int) -> type[ChunkedAttention]:
    """megatron-core builds it from its configuration alone."""
    return type("ChunkedAttention", (ChunkedAttention,), {"chunk": chunk})


def require_one_chunk(architecture: Architecture, *, sequence_length: int) -> None:
    """Refuse samples that Transformer Engine, which knows no chunks, would see whole."""
    chunk = architecture.attention_chunk
    if chunk is not None and sequence_length > chunk:
        raise ModelError(
            f"data.sequence_length={sequence_length} is above attention_chunk_size={chunk} of the "
            f"model, and the layers of GPUs do not cut it; use {chunk} or less, or "
            "cluster.device=cpu."
        )
