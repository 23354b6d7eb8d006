# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder-only transformer, as its Hugging Face config.json states it.

Families (``megacpt.families``) fill this from their own config.json; planning, model
construction and conversion read nothing else about the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3RopeScaling:
    """Frequency-dependent position interpolation (Llama 3.1, ``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The MLP of every layer is a mixture: a router sends each token to some of several."""

    num: int
    per_token: int
    """Each token's experts; their weights are renormalised to sum to one."""
    balance_coefficient: float
    """Weight of the load-balancing loss of a layer, where the run sets none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes in elements; ids are ``None`` where the config states none."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    """Of the MLP, or of one expert."""
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
    experts: Experts | None = None
    """``None``: every layer has one MLP, which all tokens pass."""
    sliding_window: int | None = None
    """Tokens back that a token sees; ``None``: all."""

    def balanced_by(self, coefficient: float | None) -> Architecture:
        """The same with another weight of the load-balancing loss, where one is given."""
        if self.experts is None or coefficient is None:
            return self
        return replace(self, experts=replace(self.experts, balance_coefficient=coefficient))

    @property
    def num_parameters(self) -> int:
        """Every weight once; a tied output layer is not counted twice."""
        return self.num_parameters_outside_experts + self.num_expert_parameters

    @property
    def num_active_parameters(self) -> int:
        """Those that one token passes: its own experts only."""
        if self.experts is None:
            return self.num_parameters
        active = self.num_expert_parameters // self.experts.num * self.experts.per_token
        return self.num_parameters_outside_experts + active

    @property
    def num_expert_parameters(self) -> int:
        """Of all experts of all layers; 0 in a dense model."""
        return self.num_layers * self.experts.num * self._mlp_parameters if self.experts else 0

    @property
    def num_parameters_outside_experts(self) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        layer = self._attention_parameters + 2 * self.hidden_size
        layer += self.hidden_size * self.experts.num if self.experts else self._mlp_parameters
        return embeddings + self.num_layers * layer + self.hidden_size

    @property
    def _attention_parameters(self) -> int:
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        biases = (q + 2 * kv + self.hidden_size) if self.attention_bias else 0
        return self.hidden_size * (2 * q + 2 * kv) + biases

    @property
    def _mlp_parameters(self) -> int:
        """Of the MLP, or of one expert."""
        biases = (2 * self.ffn_hidden_size + self.hidden_size) if self.mlp_bias else 0
        return 3 * self.hidden_size * self.ffn_hidden_size + biases

    def training_flops_per_token(self, *, sequence_length: int) -> float:
        """Forward and backward floating point operations of one token, causal attention counted
        at half of the full square (PaLM, appendix B, https://arxiv.org/abs/2204.02311); of the
        experts, those of the token."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        mlps = self.experts.per_token if self.experts else 1
        router = self.experts.num if self.experts else 0
        linear = self.hidden_size * (2 * q + 2 * kv + 3 * self.ffn_hidden_size * mlps + router)
        matmul = self.num_layers * linear + self.vocab_size * self.hidden_size
        attention = self.num_layers * q * sequence_length
        return 6.0 * (matmul + attention)
