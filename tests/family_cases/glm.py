# SPDX-License-Identifier: Apache-2.0
"""GLM-4.5's mixtures."""

from __future__ import annotations

from typing import Any

from tests.family_cases import Case
from tests.family_cases.deepseek import CORRECTED, SHARED, UNSCALED
from tests.family_cases.llama_like import without_biases, without_head_norms

GLM: dict[str, Any] = {
    "head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
}
WHOLE_HEAD = {
    "half of a head": {"rope_parameters": GLM["rope_parameters"] | {"partial_rotary_factor": 1.0}}
}
CASES = {
    "moe": Case(
        model_type="glm4_moe",
        changes=GLM | {"use_qk_norm": True},
        without=UNSCALED | WHOLE_HEAD,
        spoilt=SHARED | CORRECTED | {"head norms": without_head_norms},
    ),
    "moe-groups-tied": Case(
        model_type="glm4_moe",
        changes=GLM
        | {"n_group": 4, "topk_group": 2, "norm_topk_prob": False, "tie_word_embeddings": True},
        without=UNSCALED | {"groups": {"n_group": 1, "topk_group": 1}},
        spoilt=SHARED | CORRECTED,
    ),
    "moe-biased": Case(
        model_type="glm4_moe",
        changes=GLM | {"attention_bias": True, "first_k_dense_replace": 2, "n_shared_experts": 2},
        without=UNSCALED | {"its weights of experts": {"norm_topk_prob": False}},
        spoilt=SHARED | CORRECTED | {"biases": without_biases},
    ),
}
