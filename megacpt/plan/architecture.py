# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder-only transformer, as its Hugging Face config.json states it.

Families (``megacpt.model.families``) fill this from their own config.json; planning, model
construction and conversion read nothing else about the model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3RopeScaling:
    """Frequency-dependent position interpolation (Llama 3.1, ``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes in elements; ids are ``None`` where the config states none."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rope_theta: float
    rope_scaling: Llama3RopeScaling | None
    initializer_range: float
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    @property
    def num_parameters(self) -> int:
        """Every weight once; a tied output layer is not counted twice."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * self._layer_parameters + self.hidden_size

    @property
    def _layer_parameters(self) -> int:
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * q + 2 * kv)
        attention += (q + 2 * kv + self.hidden_size) if self.attention_bias else 0
        mlp = 3 * self.hidden_size * self.ffn_hidden_size
        mlp += (2 * self.ffn_hidden_size + self.hidden_size) if self.mlp_bias else 0
        return attention + mlp + 2 * self.hidden_size

    def training_flops_per_token(self, *, sequence_length: int) -> float:
        """Forward and backward floating point operations of one token, causal attention counted
        at half of the full square (PaLM, appendix B, https://arxiv.org/abs/2204.02311)."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        linear = self.hidden_size * (2 * q + 2 * kv) + 3 * self.hidden_size * self.ffn_hidden_size
        matmul = self.num_layers * linear + self.vocab_size * self.hidden_size
        attention = self.num_layers * q * sequence_length
        return 6.0 * (matmul + attention)
