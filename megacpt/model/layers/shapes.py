# SPDX-License-Identifier: Apache-2.0
"""Layers of another shape than Llama's: norms after attention and MLP, both beside each other,
queries and keys that are normed over all heads.

Shapes: S sequence, B batch, H heads of this rank, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer

from megacpt.families.architecture import Norms
from megacpt.model.layers.cut import CutByHeads
from megacpt.model.layers.norm import normed

Add = Callable[[tuple[torch.Tensor, torch.Tensor | None], torch.Tensor, float], torch.Tensor]


class PostNormLayer(TransformerLayer):  # type: ignore[misc]
    """Norms what attention and MLP give before it is added to their input."""

    norm: type[torch.nn.Module]

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        size = {"hidden_size": config.hidden_size, "eps": config.layernorm_epsilon}
        self.post_self_attn_layernorm = self.norm(config=config, **size)
        self.post_mlp_layernorm = self.norm(config=config, **size)
        for add, norm in (
            ("self_attn_bda", self.post_self_attn_layernorm),
            ("mlp_bda", self.post_mlp_layernorm),
        ):
            setattr(self, add, _norm_first(getattr(self, add), norm=norm))


def _norm_first(
    get_add: Callable[[bool, bool], Add], *, norm: torch.nn.Module
) -> Callable[[bool, bool], Add]:
    """Takes the place of megatron-core's get_bias_dropout_add, or of what has taken it."""

    def first_normed(update: tuple[torch.Tensor, torch.Tensor | None]) -> tuple[torch.Tensor, None]:
        x, bias = update
        return norm(x if bias is None else x + bias), None

    def after_norm(add: Add) -> Add:
        return lambda update, residual, prob: add(first_normed(update), residual, prob)

    return lambda training, fused: after_norm(get_add(training, fused))


class ParallelLayer(TransformerLayer):  # type: ignore[misc]
    """Attention and MLP take the same normed input."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """As megatron-core's block calls it: output, and no context."""
        for name in ("context", "context_mask", "padding_mask"):
            assert kwargs.pop(name, None) is None
        normed_SBD = self.input_layernorm(hidden_states)
        out = hidden_states
        for x, bias in (self.self_attention(normed_SBD, **kwargs), self.mlp(normed_SBD)):
            out = out + (x if bias is None else x + bias)
        return out, None


class NormOverHeads(CutByHeads):
    """RMSNorm of all heads together, of which this rank holds some."""

    def __init__(self, config: TransformerConfig, *, heads: int, norms: Norms) -> None:
        super().__init__()
        self.eps, self.norms = config.layernorm_epsilon, norms
        size = heads * config.kv_channels
        self.weight = torch.nn.Parameter(torch.ones(size, dtype=config.params_dtype))

    @classmethod
    def put_into(cls, attention: Any, *, norms: Norms) -> None:
        """Not by the layer's specification: with ``qk_layernorm``, which megatron-core wants for
        that, it would sum the gradients of different heads over the ranks."""
        config = attention.config
        heads = attention.num_attention_heads_per_partition
        groups = attention.num_query_groups_per_partition
        attention.q_layernorm = cls(config, heads=heads, norms=norms)
        attention.k_layernorm = cls(config, heads=groups, norms=norms)

    def forward(self, x_SBHD: torch.Tensor) -> torch.Tensor:
        group = parallel_state.get_tensor_model_parallel_group()
        whole = normed(
            x_SBHD.flatten(2), weight_D=self.weight, eps=self.eps, norms=self.norms, group=group
        )
        return whole.view(x_SBHD.shape)
