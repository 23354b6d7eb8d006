# SPDX-License-Identifier: Apache-2.0
"""The layers of a pipeline stage as megatron-core specifies them, each by its number in the model.

A layer is built of Transformer Engine's modules on GPUs, of plain torch ones elsewhere.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from megacpt.config.sections import DeviceKind
from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture, Experts
from megacpt.families.saved import saved_norms
from megacpt.model.config import has_qkv_bias
from megacpt.model.layers.activation import gated_class
from megacpt.model.layers.attention.causal import CausalAttention
from megacpt.model.layers.attention.chunked import chunked_class
from megacpt.model.layers.attention.latent import latent_attention
from megacpt.model.layers.attention.rotation import RotatedAttention, rotation_of
from megacpt.model.layers.experts import mlp_submodules, with_router
from megacpt.model.layers.gated_delta_net import GatedDeltaNet
from megacpt.model.layers.modules import Modules, modules_for
from megacpt.model.layers.scales import scale_residuals
from megacpt.model.layers.shapes import ParallelLayer, PostNormLayer
from megacpt.plan.rules.model import lacking_on_gpus


def block_spec(
    architecture: Architecture,
    *,
    config: TransformerConfig,
    kind: DeviceKind,
    pp_rank: int,
    vp_stage: int | None,
) -> Any:
    """The specification of this stage's layers and of the norm after the last of all."""
    first = get_transformer_layer_offset(config, vp_stage, pp_rank)
    layers = range(first, first + get_num_layers_to_build(config, vp_stage, pp_rank))
    specs = [layer_spec(architecture, config=config, kind=kind, layer=layer) for layer in layers]
    norm = modules_for(architecture, kind=kind).norm
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=norm)


def layer_spec(
    architecture: Architecture, *, config: TransformerConfig, kind: DeviceKind, layer: int
) -> Any:
    """``layer``: its number in the whole model, from 0."""
    modules = modules_for(architecture, kind=kind)
    build = _transformer_engine_layer if modules.of_engine else _plain_layer
    experts = architecture.experts if architecture.has_experts(layer) else None
    built = build(
        config,
        architecture=architecture,
        modules=modules,
        num_experts=None if experts is None else experts.num,
    )
    if architecture.norms.after:
        built.module = type("PostNormLayer", (PostNormLayer,), {"norm": modules.norm})
    _choose_attention(built.submodules, architecture=architecture, modules=modules, layer=layer)
    names = saved_norms(architecture, layer=layer)
    built.submodules.sharded_state_dict_keys_map = names
    return _finished(built, architecture=architecture, experts=experts)


def _choose_attention(
    submodules: Any, *, architecture: Architecture, modules: Modules, layer: int
) -> None:
    """Of another kind than the usual one, where the layer has such; its norm then is apart."""
    net = architecture.delta_net
    if architecture.latent is not None:
        submodules.self_attention = latent_attention(architecture, modules=modules)
        submodules.input_layernorm = _norm_before(architecture, norm=modules.norm)
    elif net is not None and layer in net.layers:
        params = {"sizes": net, "modules": modules}
        submodules.self_attention = ModuleSpec(module=GatedDeltaNet, params=params)
        submodules.input_layernorm = _norm_before(architecture, norm=modules.norm)
    else:
        if rotation := rotation_of(architecture, layer=layer):
            submodules.self_attention.module = RotatedAttention
            submodules.self_attention.params |= {"rotation": rotation}
        parts, chunk = submodules.self_attention.submodules, architecture.chunk(layer)
        parts.core_attention = modules.core_attention
        # On GPUs no sample is longer than a chunk (megacpt.model.layers.attention.chunked).
        if chunk is not None and parts.core_attention is CausalAttention:
            parts.core_attention = chunked_class(chunk)
        _correct_biases(parts, architecture=architecture)


def _finished(layer: Any, *, architecture: Architecture, experts: Experts | None) -> Any:
    if architecture.scales.residual != 1.0:
        scale_residuals(layer, scale=architecture.scales.residual)
    return layer if experts is None else with_router(layer, experts=experts)


def _transformer_engine_layer(
    config: TransformerConfig,
    *,
    architecture: Architecture,
    modules: Modules,
    num_experts: int | None,
) -> Any:
    for what in lacking_on_gpus(architecture):
        raise ModelError(
            f"A {architecture.family} model has {what}, which the layers of GPUs do not compute; "
            "use cluster.device=cpu."
        )
    layer = get_gpt_layer_with_transformer_engine_spec(
        num_experts=num_experts,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
    )
    fuses_norms = modules.can_fuse_norms and architecture.norms.before
    # An adapter's update needs what such a norm gives.
    if not fuses_norms or architecture.parallel_mlp or architecture.adapter is not None:
        # Else Transformer Engine's linear layers begin with a norm.
        layer.submodules.self_attention.submodules.linear_qkv = modules.column
        mlp_submodules(layer).linear_fc1 = modules.column
        _put_norms_apart(layer, architecture=architecture, norm=modules.norm)
    return layer


def _plain_layer(
    config: TransformerConfig,
    *,
    architecture: Architecture,
    modules: Modules,
    num_experts: int | None,
) -> Any:
    layer = get_gpt_layer_local_spec(num_experts=num_experts, normalization="RMSNorm")
    _put_norms_apart(layer, architecture=architecture, norm=modules.norm)
    attention = layer.submodules.self_attention.submodules
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = modules.norm
    if config.use_te_activation_func:
        mlp_submodules(layer).activation_func = gated_class(architecture.activation)
    return layer


def _put_norms_apart(layer: Any, *, architecture: Architecture, norm: Any) -> None:
    """Before attention and MLP, or one before both, as the family has them."""
    before = _norm_before(architecture, norm=norm)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = before
    if architecture.parallel_mlp:
        layer.module, layer.submodules.pre_mlp_layernorm = ParallelLayer, IdentityOp


def _norm_before(architecture: Architecture, *, norm: Any) -> Any:
    return norm if architecture.norms.before else IdentityOp


def _correct_biases(attention: Any, *, architecture: Architecture) -> None:
    """Give attention its own biases where megatron-core would follow the MLP's
    (``add_bias_linear``)."""
    if architecture.mlp_bias and not has_qkv_bias(architecture):
        attention.linear_qkv = _with_bias(attention.linear_qkv, bias=False)
    if architecture.mlp_bias is not architecture.attention_bias:
        attention.linear_proj = _with_bias(attention.linear_proj, bias=architecture.attention_bias)


def _with_bias(linear: Any, *, bias: bool) -> Any:
    """The same layer class, deaf to what its builder says about a bias."""

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        linear.__init__(self, *args, **{**kwargs, "bias": bias})

    return type(linear.__name__, (linear,), {"__init__": build})
