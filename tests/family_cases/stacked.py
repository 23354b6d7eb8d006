# SPDX-License-Identifier: Apache-2.0
"""OLMoE, and Granite 3 MoE, whose folders hold the experts of a layer as one tensor."""

from __future__ import annotations

from typing import Any

from tests.family_cases import Case
from tests.family_cases.llama_like import (
    GRANITE,
    WITHOUT_MULTIPLIERS,
    with_head_norms_swapped,
    without_biases,
)
from tests.family_cases.norms import without_query_and_key_norms
from tests.family_cases.routed import not_renormalised

OLMOE = {"intermediate_size": 40, "num_experts": 6, "num_experts_per_tok": 2}
GRANITE_MOE = GRANITE | {"intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 2}
BIASED = {"attention_bias": True}
BIASES = {"biases": without_biases}
NORMS = {"norms of all heads": without_query_and_key_norms}
STRETCHED = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 4.0}}
UNSTRETCHED = {"stretched positions": {"rope_parameters": {"rope_theta": 1e3}}}
IN_FOLDERS = {
    "experts.gate_up_proj": "input_linear.weight",
    "experts.down_proj": "output_linear.weight",
    "router.weight": "router.layer.weight",
}


def named_by_granite(name: str) -> str:
    for own, stored in IN_FOLDERS.items():
        name = name.replace(f"block_sparse_moe.{own}", f"block_sparse_moe.{stored}")
    return name


def olmoe(**changes: Any) -> dict[str, Any]:
    return {"model_type": "olmoe", "changes": OLMOE | changes}


def granite(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "granitemoe",
        "changes": GRANITE_MOE | changes,
        "stored_as": named_by_granite,
    }


CASES = {
    "olmoe": Case(**olmoe(), without=not_renormalised(False), spoilt=NORMS),
    "olmoe-sure-tied": Case(
        **olmoe(norm_topk_prob=True, num_experts_per_tok=3, tie_word_embeddings=True),
        without=not_renormalised(True),
        spoilt=NORMS,
    ),
    "olmoe-biased": Case(
        **olmoe(num_key_value_heads=6, rms_norm_eps=0.05, **BIASED, **STRETCHED),
        without=UNSTRETCHED | {"its epsilon": {"rms_norm_eps": 1e-6}},
        spoilt=NORMS | BIASES | {"their order": with_head_norms_swapped},
    ),
    "granite": Case(**granite(), without=WITHOUT_MULTIPLIERS),
    "granite-tied": Case(
        **granite(tie_word_embeddings=True, num_experts_per_tok=3, rms_norm_eps=0.05),
        without=WITHOUT_MULTIPLIERS | {"its epsilon": {"rms_norm_eps": 1e-6}},
    ),
    "granite-biased": Case(
        **granite(num_key_value_heads=6, **BIASED, **STRETCHED),
        without=WITHOUT_MULTIPLIERS | UNSTRETCHED,
        spoilt=BIASES,
    ),
}
