# SPDX-License-Identifier: Apache-2.0
"""megatron-core's TransformerConfig and layers for an architecture, a layout and a device.

It differs from megatron-core's defaults where continued pretraining needs it: no dropout, the
gradient divided by the number of valid tokens, no initialisation (weights are always filled by
megacpt.model.weights), and on CPU no fused CUDA kernels. A layer is built of Transformer Engine's
modules on GPUs, of plain torch ones elsewhere.
"""

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
from torch.nn.functional import silu

from megacpt.config.sections import (
    DeviceKind,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    Recompute,
)
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from megacpt.model.kernels import kernel_settings
from megacpt.model.layers.activation import SwiGlu
from megacpt.model.layers.attention import CausalAttention
from megacpt.model.layers.experts import expert_settings, mlp_submodules, with_router
from megacpt.model.layers.norm import RMSNorm
from megacpt.model.layers.scales import scale_residuals
from megacpt.model.precision import precision_settings


def transformer_config(
    architecture: Architecture,
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kernels: KernelsConfig,
    kind: DeviceKind,
) -> TransformerConfig:
    """One config serves all chunks of a rank; the schedules read their callbacks from it."""
    return TransformerConfig(
        **_sizes(architecture),
        **_layout(parallel),
        **_recompute(parallel),
        **expert_settings(architecture, parallel=parallel, kind=kind),
        **precision_settings(precision, kind=kind),
        **kernel_settings(kernels, parallel=parallel, precision=precision, kind=kind),
        # megacpt.model.layers.activation takes the place of Transformer Engine's on a CPU.
        use_te_activation_func=kind is not DeviceKind.gpu and not architecture.experts,
        qk_layernorm=architecture.qk_norm,
        no_rope_freq=_without_rope(architecture),
        softmax_scale=architecture.scales.attention,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        calculate_per_token_loss=True,
        perform_initialization=False,
    )


def _sizes(architecture: Architecture) -> dict[str, Any]:
    return {
        "num_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "ffn_hidden_size": architecture.ffn_hidden_size,
        "num_attention_heads": architecture.num_heads,
        "num_query_groups": architecture.num_kv_heads,
        "kv_channels": architecture.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": architecture.norm_eps,
        "gated_linear_unit": True,
        "activation_func": silu,
        "add_bias_linear": architecture.mlp_bias,
        "add_qkv_bias": _has_qkv_bias(architecture),
    }


def _without_rope(architecture: Architecture) -> list[int] | None:
    """One number a layer, 1 where it does not rotate."""
    without = architecture.no_rope_layers
    layers = range(architecture.num_layers)
    return [int(layer in without) for layer in layers] if without else None


def _layout(parallel: ParallelConfig) -> dict[str, Any]:
    interleaved = parallel.vpp > 1
    return {
        "tensor_model_parallel_size": parallel.tp,
        "pipeline_model_parallel_size": parallel.pp,
        "virtual_pipeline_model_parallel_size": parallel.vpp if interleaved else None,
        "context_parallel_size": parallel.cp,
        "num_layers_in_first_pipeline_stage": parallel.first_stage_layers,
        "num_layers_in_last_pipeline_stage": parallel.last_stage_layers,
        "sequence_parallel": parallel.sequence_parallel and parallel.tp > 1,
        # With two stages the interleaved schedule sends and receives between the same pair at
        # once; batched calls then mix up tensors, unnoticed (gradient norm 2e6 instead of 0.9).
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
    }


def _recompute(parallel: ParallelConfig) -> dict[str, Any]:
    """What the backward pass computes a second time instead of keeping it."""
    if parallel.recompute is Recompute.none:
        return {}
    if parallel.recompute is Recompute.selective:
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    layers = parallel.recompute_layers
    return {
        "recompute_granularity": "full",
        # "uniform" counts the layers between two that are kept, "block" those recomputed.
        "recompute_method": "uniform" if layers is None else "block",
        "recompute_num_layers": layers or 1,
    }


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
    _correct_biases(layer.submodules.self_attention.submodules, architecture=architecture)
    if architecture.scales.residual != 1.0:
        scale_residuals(layer, scale=architecture.scales.residual)
    if architecture.experts is None:
        return layer
    # Before experts Transformer Engine fuses no norm, so a checkpoint keeps it under its own name.
    names = layer.submodules.sharded_state_dict_keys_map
    kept = {name: saved for name, saved in names.items() if not saved.startswith("mlp.")}
    layer.submodules.sharded_state_dict_keys_map = kept
    return with_router(layer)


def _transformer_engine_layer(config: TransformerConfig) -> Any:
    if not HAVE_TE:
        raise EnvironmentError_(
            "Training on GPUs needs Transformer Engine, which this Python lacks; "
            "use NVIDIA's PyTorch container, or pip install 'megacpt[te]'."
        )
    return get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
    )


def _plain_layer(config: TransformerConfig) -> Any:
    layer = get_gpt_layer_local_spec(num_experts=config.num_moe_experts, normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = CausalAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    if config.use_te_activation_func:
        mlp_submodules(layer).activation_func = SwiGlu
    return layer


def _correct_biases(attention: Any, *, architecture: Architecture) -> None:
    """Give attention its own biases where megatron-core would follow the MLP's
    (``add_bias_linear``)."""
    if architecture.mlp_bias and not _has_qkv_bias(architecture):
        attention.linear_qkv = _with_bias(attention.linear_qkv, bias=False)
    if architecture.mlp_bias is not architecture.attention_bias:
        attention.linear_proj = _with_bias(attention.linear_proj, bias=architecture.attention_bias)


def _has_qkv_bias(architecture: Architecture) -> bool:
    return architecture.attention_bias or architecture.qkv_bias


def _with_bias(linear: Any, *, bias: bool) -> Any:
    """The same layer class, deaf to what its builder says about a bias."""

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        linear.__init__(self, *args, **{**kwargs, "bias": bias})

    return type(linear.__name__, (linear,), {"__init__": build})
