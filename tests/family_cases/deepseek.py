# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V2, V2-Lite and V3: latent attention, and the choice of experts in all its options."""

from __future__ import annotations

from typing import Any

import torch

from tests.family_cases import Case
from tests.family_cases.routed import mixtures_of, without_shared

LATENT = {
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
}
GROUPS = {"n_group": 4, "topk_group": 2}
V2 = LATENT | GROUPS | {"topk_method": "group_limited_greedy", "num_experts_per_tok": 3}
V3 = LATENT | GROUPS


def without_correction(model: Any) -> None:
    for mixture in mixtures_of(model):
        mixture.router.expert_bias.data.zero_()


def without_latent_norms(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.kv_layernorm = torch.nn.Identity()


def with_another_epsilon(model: Any) -> None:
    """That of the other norms."""
    for layer in model.decoder.layers:
        layer.self_attention.kv_layernorm.eps = layer.self_attention.config.layernorm_epsilon


def shared_rotation_in_halves(model: Any) -> None:
    model.config.rotary_interleaved = model.rotary_pos_emb.rotary_interleaved = False


SHARED = {"shared experts": without_shared}
SPOILT = SHARED | {"latent norms": without_latent_norms}
EPSILON = {"its own epsilon": with_another_epsilon}
IN_PAIRS = {"rotation in pairs": shared_rotation_in_halves}
CORRECTED = {"correction": without_correction}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 1.0,
}
UNSTRETCHED = {
    "stretched positions": {"rope_parameters": {"rope_theta": 500.0}},
    "a sharper softmax": {"rope_parameters": YARN | {"mscale_all_dim": 0.0}},
}
UNSCALED = {"scale of experts": {"routed_scaling_factor": 1.0}}
CASES = {
    "v2": Case(
        model_type="deepseek_v2",
        changes=V2 | {"rms_norm_eps": 0.05},
        without=UNSCALED | {"groups": {"topk_method": "greedy"}, "two groups": {"topk_group": 3}},
        spoilt=SPOILT | EPSILON | IN_PAIRS,
    ),
    "v2-lite-tied": Case(
        model_type="deepseek_v2",
        changes=LATENT
        | {"q_lora_rank": None, "tie_word_embeddings": True, "rope_parameters": YARN},
        without=UNSCALED | UNSTRETCHED,
        spoilt=SPOILT | IN_PAIRS,
    ),
    "v2-biased": Case(
        model_type="deepseek_v2",
        changes=V2 | {"attention_bias": True, "first_k_dense_replace": 0, "n_shared_experts": 1},
        without=UNSCALED,
        spoilt=SPOILT,
    ),
    "v3": Case(
        model_type="deepseek_v3",
        changes=V3 | {"rms_norm_eps": 0.05},
        without=UNSCALED
        | {
            "groups": {"n_group": 1, "topk_group": 1},
            "two groups": {"topk_group": 1},
            "its weights of experts": {"norm_topk_prob": False},
            "rotation in pairs": {"rope_interleave": False},
        },
        spoilt=SPOILT | EPSILON | CORRECTED,
    ),
    "v3-shares-tied": Case(
        model_type="deepseek_v3",
        changes=V3
        | {
            "norm_topk_prob": False,
            "rope_interleave": False,
            "tie_word_embeddings": True,
            "rope_parameters": YARN,
        },
        without=UNSCALED
        | UNSTRETCHED
        | {
            "its weights of experts": {"norm_topk_prob": True},
            "rotation in halves": {"rope_interleave": True},
        },
        spoilt=SPOILT | CORRECTED,
    ),
    "v3-one-group-biased": Case(
        model_type="deepseek_v3",
        changes=LATENT
        | {
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": None,
            "attention_bias": True,
            "num_experts_per_tok": 3,
            "first_k_dense_replace": 2,
        },
        without=UNSCALED,
        spoilt=SPOILT | CORRECTED,
    ),
}
