# SPDX-License-Identifier: Apache-2.0
"""Which modules a layer is built of: Transformer Engine's on GPUs, plain torch ones elsewhere."""

from __future__ import annotations

from typing import Any

from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)

from megacpt.config.sections import DeviceKind
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from megacpt.model.layers.activation import SwiGlu
from megacpt.model.layers.attention import CausalAttention
from megacpt.model.layers.experts import mlp_submodules, with_router
from megacpt.model.layers.norm import RMSNorm


def block_spec(
    architecture: Architecture,
    *,
    config: TransformerConfig,
    kind: DeviceKind,
    pp_rank: int,
    vp_stage: int | None,
) -> Any:
    """The specification of this stage's layers, as GPTModel takes it."""
    if kind is DeviceKind.gpu:
        return _finished(_transformer_engine_layer(config), architecture=architecture)
    layer = _finished(_plain_layer(config), architecture=architecture)
    num_layers = get_num_layers_to_build(config, vp_stage, pp_rank)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)


def _finished(layer: Any, *, architecture: Architecture) -> Any:
    layer = _with_attention_bias(layer, architecture=architecture)
    if architecture.experts is None:
        return layer
    # Before experts Transformer Engine fuses no norm, so a checkpoint keeps it under its own name.
    names = layer.submodules.sharded_state_dict_keys_map
    kept = {name: saved for name, saved in names.items() if name != "pre_mlp_layernorm."}
    layer.submodules.sharded_state_dict_keys_map = kept
    return with_router(layer)


def _transformer_engine_layer(config: TransformerConfig) -> Any:
    if not HAVE_TE:
        raise EnvironmentError_(
            "Training on GPUs needs Transformer Engine, which this Python lacks; "
            "use NVIDIA's PyTorch container, or pip install 'megacpt[te]'."
        )
    return get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts, moe_grouped_gemm=config.moe_grouped_gemm
    )


def _plain_layer(config: TransformerConfig) -> Any:
    layer = get_gpt_layer_local_spec(num_experts=config.num_moe_experts, normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = CausalAttention
    if config.use_te_activation_func:
        mlp_submodules(layer).activation_func = SwiGlu
    return layer


def _with_attention_bias(layer: Any, *, architecture: Architecture) -> Any:
    """State the biases of attention apart from those of the MLP.

    megatron-core has one switch for both (``add_bias_linear``, which here follows the MLP), and
    ``add_qkv_bias`` for the first of attention's two layers only.
    """
    if architecture.attention_bias != architecture.mlp_bias:
        attention = layer.submodules.self_attention.submodules
        attention.linear_qkv = _with_bias(attention.linear_qkv, bias=architecture.attention_bias)
        attention.linear_proj = _with_bias(attention.linear_proj, bias=architecture.attention_bias)
    return layer


def _with_bias(linear: Any, *, bias: bool) -> Any:
    """The same layer class, deaf to what its builder says about a bias."""

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        linear.__init__(self, *args, **{**kwargs, "bias": bias})

    return type(linear.__name__, (linear,), {"__init__": build})
