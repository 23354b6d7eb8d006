# SPDX-License-Identifier: Apache-2.0
"""megatron-core's TransformerConfig for an architecture, a layout and a device.

It differs from megatron-core's defaults where continued pretraining needs it: no dropout, the
gradient divided by the number of valid tokens, no initialisation (weights are always filled by
megacpt.model.weights), and on CPU no fused CUDA kernels.
"""

from __future__ import annotations

from typing import Any

from megatron.core.transformer import TransformerConfig
from torch.nn.functional import silu

from megacpt.config.sections import (
    DeviceKind,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    Recompute,
)
from megacpt.families import has_equal_layers
from megacpt.families.architecture import Architecture
from megacpt.model.kernels import kernel_settings
from megacpt.model.layers.activation import ACTIVATIONS, bounded_glu_settings
from megacpt.model.layers.attention.rope import table_keys
from megacpt.model.layers.experts import expert_settings
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
    fused = kernel_settings(kernels, parallel=parallel, precision=precision, kind=kind)
    return TransformerConfig(
        **fused
        | _activation(architecture, kind=kind)
        | _plain_rotation(architecture)
        | _biases_of_experts(architecture),
        **_sizes(architecture),
        **_layout(parallel),
        **_recompute(parallel),
        **expert_settings(architecture, parallel=parallel, kind=kind),
        **precision_settings(precision, kind=kind),
        rotary_interleaved=architecture.rotary_pairs,
        qk_layernorm=architecture.qk_norm,
        attention_output_gate=architecture.attention_gate,
        no_rope_freq=_without_rope(architecture),
        **_windows(architecture),
        softmax_scale=architecture.scales.attention,
        softmax_type="learnable" if architecture.sinks else "vanilla",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        calculate_per_token_loss=True,
        perform_initialization=False,
        # Layers that differ are saved under their own numbers, equal ones as one tensor.
        hetereogenous_dist_checkpoint=not has_equal_layers(architecture),
    )


def _sizes(architecture: Architecture) -> dict[str, Any]:
    return {
        "num_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "ffn_hidden_size": architecture.dense_ffn_hidden_size,
        "num_attention_heads": architecture.num_heads,
        "num_query_groups": architecture.num_kv_heads,
        "kv_channels": architecture.head_dim,
        "normalization": "LayerNorm" if architecture.norms.centred else "RMSNorm",
        "layernorm_zero_centered_gamma": architecture.norms.plus_one,
        "layernorm_epsilon": architecture.norm_eps,
        "gated_linear_unit": architecture.gated,
        "add_bias_linear": architecture.mlp_bias,
        "add_qkv_bias": has_qkv_bias(architecture),
    }


def _activation(architecture: Architecture, *, kind: DeviceKind) -> dict[str, Any]:
    if architecture.bounded_glu is not None:
        return bounded_glu_settings(architecture.bounded_glu, kind=kind)
    if architecture.gated and not architecture.experts and kind is not DeviceKind.gpu:
        # megacpt.model.layers.activation takes the place of Transformer Engine's.
        return {"use_te_activation_func": True, "activation_func": silu}
    function = ACTIVATIONS[architecture.activation].forward
    # megatron-core's fused kernels take every GELU for its tanh form.
    is_fused = {} if function is silu and architecture.gated else {"bias_activation_fusion": False}
    return {"activation_func": function, **is_fused}


def _without_rope(architecture: Architecture) -> list[int] | None:
    """One number a layer, 1 where it does not rotate."""
    without = architecture.no_rope_layers
    layers = range(architecture.num_layers)
    return [int(layer in without) for layer in layers] if without else None


def _plain_rotation(architecture: Architecture) -> dict[str, bool]:
    """Of packed documents the fused kernel knows neither pairs nor tables of several lengths."""
    by_length = any(is_long for _, is_long in table_keys(architecture))
    return {"apply_rope_fusion": False} if by_length or architecture.rotary_pairs else {}


def _biases_of_experts(architecture: Architecture) -> dict[str, bool]:
    """Are added by the experts themselves, which refuse the kernel for those of other layers."""
    has_some = architecture.experts is not None and architecture.mlp_bias
    return {"bias_dropout_fusion": False} if has_some else {}


def _windows(architecture: Architecture) -> dict[str, Any]:
    """In megatron-core's count a token sees so many before it; 1 stands for a layer with a window.

    Transformer Engine's ring of context parallelism ("p2p") knows no windows.
    """
    if architecture.sliding_window is None:
        return {}
    layers = range(architecture.num_layers)
    has_window = [int(architecture.window(layer) is not None) for layer in layers]
    return {
        "window_size": (architecture.sliding_window - 1, 0),
        "window_attn_skip_freq": has_window,
        "cp_comm_type": "all_gather",
    }


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


def has_qkv_bias(architecture: Architecture) -> bool:
    return architecture.attention_bias or architecture.qkv_bias
