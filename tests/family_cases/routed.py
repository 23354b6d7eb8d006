# SPDX-License-Identifier: Apache-2.0
"""Mixtures with layers without experts, shared experts and routers of other kinds."""

from __future__ import annotations

from typing import Any

import torch

from tests.family_cases import Case

QWEN = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "intermediate_size": 56,
    "router_aux_loss_coef": 0.02,
}
QWEN2 = QWEN | {"shared_expert_intermediate_size": 24}
QWEN3 = QWEN | {"head_dim": 16}


def mixtures_of(model: Any) -> list[Any]:
    return [layer.mlp for layer in model.decoder.layers if hasattr(layer.mlp, "router")]


def without_shared(model: Any) -> None:
    for mixture in mixtures_of(model):
        mixture.shared_experts.linear_fc2.weight.data.zero_()


def without_gate(model: Any) -> None:
    """One half of everything."""
    for mixture in mixtures_of(model):
        mixture.shared_experts.gate_weight.data.zero_()


def gate_is_sure(name: str, parameter: torch.nn.Parameter) -> bool:
    if name.endswith("shared_expert_gate.weight"):
        parameter.data.normal_(0.0, 1.0)
        return True
    return False


def not_renormalised(renormalised: bool) -> dict[str, Any]:
    return {"its weights of experts": {"norm_topk_prob": not renormalised}}


SHARED = {"shared experts": without_shared}
GATED = SHARED | {"their gate": without_gate}
CASES = {
    "qwen2-moe": Case(
        model_type="qwen2_moe",
        changes=QWEN2,
        without=not_renormalised(False),
        spoilt=GATED,
        draw=gate_is_sure,
    ),
    "qwen2-moe-some-dense-tied": Case(
        model_type="qwen2_moe",
        changes=QWEN2
        | {"mlp_only_layers": [2], "norm_topk_prob": True, "tie_word_embeddings": True},
        without=not_renormalised(True),
        spoilt=GATED,
        draw=gate_is_sure,
    ),
    "qwen2-moe-no-bias": Case(
        model_type="qwen2_moe",
        changes=QWEN2 | {"qkv_bias": False, "decoder_sparse_step": 2, "num_experts_per_tok": 3},
        spoilt=GATED,
        draw=gate_is_sure,
    ),
    "qwen3-moe-first-dense": Case(
        model_type="qwen3_moe",
        changes=QWEN3 | {"mlp_only_layers": [0], "norm_topk_prob": True},
        without=not_renormalised(True),
    ),
    "qwen3-moe-every-other": Case(
        model_type="qwen3_moe",
        changes=QWEN3 | {"decoder_sparse_step": 2, "tie_word_embeddings": True},
        without=not_renormalised(False),
    ),
}
