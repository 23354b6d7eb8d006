# SPDX-License-Identifier: Apache-2.0
"""Llama 4: chunks, layers without positions, norms of what turns, weights of experts' inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tests.family_cases import Case
from tests.family_cases.norms import with_halves_turned
from tests.family_cases.routed import mixtures_of, without_shared

FULL, CHUNKED = "full_attention", "chunked_attention"
SCOUT: dict[str, Any] = {
    "head_dim": 8,
    "num_local_experts": 4,
    "intermediate_size": 40,
    "intermediate_size_mlp": 56,
    "attention_chunk_size": 20,
    "floor_scale": 9,
    "attn_scale": 0.7,
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
}
AS_PUBLISHED = {
    "rope_type": "llama3",
    "rope_theta": 300.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}


def router_is_unsure(name: str, parameter: torch.nn.Parameter) -> bool:
    """Else the weights of all chosen experts are nearly one."""
    if name.endswith("router.weight"):
        parameter.data.normal_(0.0, 0.2)
        return True
    return False


def counted_from_zero(model: Any) -> None:
    for layer in model.decoder.layers:
        attention = layer.self_attention
        if attention.rotation.growth is not None:
            growth = replace(attention.rotation.growth, first=0)
            attention.rotation = replace(attention.rotation, growth=growth)


def with_growth_in_all_layers(model: Any) -> None:
    rotations = [layer.self_attention.rotation for layer in model.decoder.layers]
    growth = next(rotation.growth for rotation in rotations if rotation.growth is not None)
    for layer in model.decoder.layers:
        layer.self_attention.rotation = replace(layer.self_attention.rotation, growth=growth)


def with_norms_in_all_layers(model: Any) -> None:
    layers = [layer.self_attention for layer in model.decoder.layers]
    norm = next(layer.q_layernorm for layer in layers if layer.q_layernorm is not None)
    for layer in layers:
        layer.q_layernorm = layer.k_layernorm = norm


def with_weights_of_outputs(model: Any) -> None:
    for mixture in mixtures_of(model):
        _, _, plain, *_ = type(mixture.experts).__mro__
        mixture.experts.__class__ = plain


GROWTH = {"growth": {"attn_temperature_tuning": False}}
NORM = {"norms": {"use_qk_norm": False}}
CHUNKS = {
    "chunks": {"attention_chunk_size": 256},
    "a chunk of one less": {"attention_chunk_size": 19},
    "a chunk of one more": {"attention_chunk_size": 21},
}
EXPERTS = {"shared experts": without_shared, "weights of inputs": with_weights_of_outputs}
PAIRS = {"pairs": with_halves_turned}
CASES = {
    "scout": Case(
        model_type="llama4_text",
        changes=SCOUT | {"rope_parameters": AS_PUBLISHED},
        without=CHUNKS
        | GROWTH
        | NORM
        | {
            "layers without positions": {"no_rope_layers": [1, 1, 1, 1]},
            "scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
        },
        spoilt=EXPERTS
        | PAIRS
        | {
            "positions from one on": counted_from_zero,
            "growth of some layers": with_growth_in_all_layers,
            "norms of some layers": with_norms_in_all_layers,
        },
        draw=router_is_unsure,
    ),
    "maverick-tied": Case(
        model_type="llama4_text",
        changes=SCOUT
        | {
            "interleave_moe_layer_step": 2,
            "num_local_experts": 6,
            "use_qk_norm": False,
            "tie_word_embeddings": True,
            "attention_chunk_size": 37,
            "no_rope_layer_interval": 2,
        },
        without=GROWTH
        | {
            "chunks": {"attention_chunk_size": 256},
            "layers without positions": {"no_rope_layers": [1, 1, 1, 1]},
        },
        spoilt=EXPERTS | PAIRS,
        draw=router_is_unsure,
    ),
    "two-experts-stretched": Case(
        model_type="llama4_text",
        changes=SCOUT
        | {
            "head_dim": 16,
            "num_experts_per_tok": 2,
            "moe_layers": [1, 3],
            "no_rope_layers": [0, 1, 1, 0],
            "floor_scale": 1,
            "attn_scale": 0.2,
            "rms_norm_eps": 0.3,
            "rope_parameters": YARN | {"attention_factor": 1.7},
        },
        without=GROWTH
        | NORM
        | {
            "scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
            "its factor beside the norm's epsilon": {
                "rope_parameters": YARN | {"attention_factor": 1.0}
            },
        },
        spoilt=EXPERTS,
        draw=router_is_unsure,
    ),
    "chunks-without-positions": Case(
        model_type="llama4_text",
        changes=SCOUT
        | {
            "num_key_value_heads": 3,
            "layer_types": [FULL, CHUNKED, CHUNKED, FULL],
            "no_rope_layers": [1, 0, 1, 0],
            "attn_temperature_tuning": False,
            "num_local_experts": 2,
        },
        without=CHUNKS
        | NORM
        | {"their layers": {"layer_types": [CHUNKED, FULL, CHUNKED, FULL]}}
        | {"nothing that grows": {"attn_temperature_tuning": True}},
        draw=router_is_unsure,
    ),
    "all-with-positions": Case(
        model_type="llama4_text",
        changes=SCOUT
        | {
            "num_key_value_heads": 1,
            "no_rope_layers": [1, 1, 1, 1],
            "interleave_moe_layer_step": 3,
            # Of layers without positions a key's bias has no gradient but rounding.
            "attention_bias": True,
            "attention_chunk_size": 31,
            "use_qk_norm": False,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
        },
        without={
            "chunks": {"attention_chunk_size": 256},
            "scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
        },
        draw=router_is_unsure,
    ),
    "one-chunk-three-experts": Case(
        model_type="llama4_text",
        changes=SCOUT
        | {
            "hidden_size": 64,
            "intermediate_size": 56,
            "intermediate_size_mlp": 72,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "attention_chunk_size": 200,
            "floor_scale": 40,
            "no_rope_layer_interval": 3,
        },
        without=GROWTH | NORM | {"one chunk": {"attention_chunk_size": 64}},
        spoilt=EXPERTS,
        draw=router_is_unsure,
    ),
}
