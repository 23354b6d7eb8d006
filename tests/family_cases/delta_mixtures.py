# SPDX-License-Identifier: Apache-2.0
"""Families with gated delta nets and mixtures of experts: Qwen3-Next and Qwen3.5-MoE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tests.family_cases import Case
from tests.family_cases.delta_nets import (
    QWEN3_5,
    draw,
    without_convolution,
    without_gate,
)
from tests.family_cases.routed import GATED, not_renormalised

MIXTURE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
    "intermediate_size": 56,
    "router_aux_loss_coef": 0.02,
}
SMALL = QWEN3_5 | MIXTURE | {"rms_norm_eps": 1e-3}
"""Of an epsilon at which a net's norm, which follows small numbers, does not magnify rounding."""
FULL, NET = "full_attention", "linear_attention"
ALL_TURN = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.5,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}


def without_decay(model: Any) -> None:
    for layer in model.decoder.layers:
        if hasattr(layer.self_attention, "A_log"):
            layer.self_attention.A_log.data.fill_(-20.0)


def without_one(model: Any) -> None:
    """Norms by their weights as these are stored."""
    for layer in model.decoder.layers:
        layer.pre_mlp_layernorm.norms = replace(layer.pre_mlp_layernorm.norms, plus_one=False)


def with_heads_apart(model: Any) -> None:
    """The rows of the nets' input in the order of Qwen3.5's folders: all queries, all keys."""
    for layer in model.decoder.layers:
        net = layer.self_attention
        if hasattr(net, "in_proj"):
            sizes = [net.key_heads * rows for rows in net._rows()]
            parts = torch.arange(sum(sizes)).split(sizes)
            by_head = torch.cat([part.view(net.key_heads, -1) for part in parts], dim=1)
            net.in_proj.weight.data = net.in_proj.weight.data[by_head.flatten()]


def drawn(name: str, parameter: torch.nn.Parameter) -> bool:
    """Norms around one, of weights less one; routers and gates that are not all or nothing."""
    is_gate = name.endswith((".gate.weight", "shared_expert_gate.weight"))
    if is_gate or (name.endswith("norm.weight") and "linear_attn" not in name):
        parameter.data.normal_(0.0, 0.3)
        return True
    return draw(name, parameter)


NETS = {"convolution": without_convolution, "decay": without_decay}


def case(model_type: str, **options: Any) -> Case:
    spoilt = options.pop("spoilt", {})
    without = options.pop("without", {})
    return Case(
        model_type=model_type,
        changes=SMALL | options,
        without=without,
        spoilt=NETS | GATED | spoilt,
        draw=drawn,
    )


CASES = {
    "next": case(
        "qwen3_next",
        without=not_renormalised(True) | {"partial rotation": ALL_TURN},
        spoilt={
            "gate of attention": without_gate,
            "weights plus one": without_one,
            "order of rows": with_heads_apart,
        },
    ),
    "next-shares-tied": case(
        "qwen3_next",
        norm_topk_prob=False,
        num_experts_per_tok=3,
        tie_word_embeddings=True,
        rms_norm_eps=0.05,
        full_attention_interval=2,
        without=not_renormalised(False) | {"its epsilon": {"rms_norm_eps": 1e-6}},
    ),
    "next-some-dense": case(
        "qwen3_next",
        mlp_only_layers=[1],
        layer_types=[FULL, NET, NET, FULL],
        linear_num_value_heads=6,
        linear_conv_kernel_dim=2,
    ),
    "next-every-other": case(
        "qwen3_next",
        decoder_sparse_step=2,
        linear_num_value_heads=2,
        linear_key_head_dim=12,
        linear_value_head_dim=8,
        num_key_value_heads=6,
    ),
    "next-yarn": case(
        "qwen3_next",
        num_hidden_layers=2,
        layer_types=[NET, FULL],
        rope_parameters=YARN,
        linear_num_key_heads=4,
        without={"stretched positions": {"rope_parameters": YARN | {"rope_type": "default"}}},
    ),
    "next-one-key-head": case(
        "qwen3_next",
        num_hidden_layers=2,
        layer_types=[FULL, NET],
        linear_num_key_heads=1,
        linear_conv_kernel_dim=3,
        num_experts_per_tok=4,
    ),
    "moe": case(
        "qwen3_5_moe_text",
        without={"partial rotation": ALL_TURN},
        spoilt={"gate of attention": without_gate, "weights plus one": without_one},
    ),
    "moe-tied": case(
        "qwen3_5_moe_text",
        tie_word_embeddings=True,
        num_experts_per_tok=3,
        rms_norm_eps=0.05,
        full_attention_interval=2,
        without={"its epsilon": {"rms_norm_eps": 1e-6}},
    ),
    "moe-yarn": case(
        "qwen3_5_moe_text",
        num_hidden_layers=2,
        layer_types=[FULL, NET],
        rope_parameters=YARN,
        linear_num_value_heads=2,
        linear_conv_kernel_dim=3,
        without={"stretched positions": {"rope_parameters": YARN | {"rope_type": "default"}}},
    ),
}
