# SPDX-License-Identifier: Apache-2.0
"""Families that are Llama but for a few things."""

from __future__ import annotations

from typing import Any

import torch

from tests.family_cases import Case

GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.3,
}


def without_biases(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.linear_qkv.bias.data.zero_()


def without_head_norms(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.q_layernorm = torch.nn.Identity()
        layer.self_attention.k_layernorm = torch.nn.Identity()


def without_their_scales(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.q_layernorm.weight.data.fill_(1.0)
        layer.self_attention.k_layernorm.weight.data.fill_(1.0)


def with_head_norms_swapped(model: Any) -> None:
    for layer in model.decoder.layers:
        attention = layer.self_attention
        norms = attention.q_layernorm, attention.k_layernorm
        attention.k_layernorm, attention.q_layernorm = norms


QWEN2 = {"spoilt": {"biases": without_biases}}
QWEN3 = {
    "spoilt": {
        "head norms": without_head_norms,
        "their scales": without_their_scales,
        "their order": with_head_norms_swapped,
    }
}
WITHOUT_MULTIPLIERS = {key: {key: 1.0} for key in GRANITE}
POSITIONS = {
    str(layers): {"no_rope_layers": layers} for layers in ([1, 0, 1, 0], [1] * 4, [0, 1, 1, 1])
}
CASES = {
    "qwen2": Case(model_type="qwen2", **QWEN2),
    "qwen2-tied": Case(model_type="qwen2", changes={"tie_word_embeddings": True}, **QWEN2),
    "qwen3": Case(model_type="qwen3", changes={"head_dim": 16}, **QWEN3),
    "qwen3-tied": Case(
        model_type="qwen3", changes={"head_dim": 16, "tie_word_embeddings": True}, **QWEN3
    ),
    "granite": Case(model_type="granite", changes=GRANITE, without=WITHOUT_MULTIPLIERS),
    "granite-tied": Case(
        model_type="granite",
        changes=GRANITE | {"tie_word_embeddings": True},
        without=WITHOUT_MULTIPLIERS,
    ),
    "mistral": Case(model_type="mistral", changes={"sliding_window": None, "head_dim": 24}),
    "smollm3-tied": Case(
        model_type="smollm3",
        changes={"no_rope_layers": [0, 1, 0, 1], "tie_word_embeddings": True},
        without=POSITIONS,
    ),
}
