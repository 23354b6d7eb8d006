# SPDX-License-Identifier: Apache-2.0
"""Core attention on torch's scaled_dot_product_attention: causal, grouped queries, no S x S matrix.

Shapes: S sequence, B batch, H query heads and K key-value heads of this rank, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


class CausalAttention(torch.nn.Module):
    """Takes the place of megatron-core's DotProductAttention; every token sees those before it."""

    def __init__(
        self, config: TransformerConfig, softmax_scale: float | None = None, **_: object
    ) -> None:
        super().__init__()
        assert config.context_parallel_size == 1
        assert config.attention_dropout == 0.0
        self.softmax_scale = softmax_scale

    def forward(
        self,
        q_SBHD: torch.Tensor,
        k_SBKD: torch.Tensor,
        v_SBKD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """The mask is always causal, so ``attention_mask`` may be None and is not read."""
        assert attention_bias is None
        assert packed_seq_params is None
        out_BHSD = scaled_dot_product_attention(
            q_SBHD.permute(1, 2, 0, 3),
            k_SBKD.permute(1, 2, 0, 3),
            v_SBKD.permute(1, 2, 0, 3),
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=k_SBKD.shape[2] != q_SBHD.shape[2],
        )
        return out_BHSD.permute(2, 0, 1, 3).flatten(2)
