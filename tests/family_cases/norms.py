# SPDX-License-Identifier: Apache-2.0
"""Families whose layers have other norms, other MLPs, bounds or another shape than Llama's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tests.family_cases import Case


def without_norm_biases(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("bias"):
            parameter.data.zero_()


def with_rms_norms(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "norms"):
            module.norms = type(module.norms)(bias=module.norms.bias, scaled_wide=True)


def without_norms_after(model: Any) -> None:
    for name, module in model.named_modules():
        if name.endswith(("post_self_attn_layernorm", "post_mlp_layernorm")):
            module.forward = lambda x: x


def without_query_and_key_norms(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.q_layernorm = layer.self_attention.k_layernorm = None


def with_norms_of_each_head(model: Any) -> None:
    for name, module in model.named_modules():
        if name.endswith(("q_layernorm", "k_layernorm")):
            module.forward = _by_head(module)


def _by_head(module: Any) -> Any:
    def forward(x_SBHD: torch.Tensor) -> torch.Tensor:
        mean_square = x_SBHD.pow(2).mean(dim=-1, keepdim=True)
        normed = x_SBHD * torch.rsqrt(mean_square + module.eps)
        return normed * module.weight.view(x_SBHD.shape[2:])

    return forward


def with_plain_weights(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "norms"):
            module.norms = replace(module.norms, plus_one=False)


def weights_less_one(name: str, parameter: torch.nn.Parameter) -> bool:
    if "norm" in name:
        parameter.data.normal_(0.0, 0.3)
    return "norm" in name


EPS = 1e-2
STARCODER2 = {"norm_epsilon": EPS, "tie_word_embeddings": False}
OTHER_GELU = {"an exact one": {"hidden_act": "gelu"}, "SiLU": {"hidden_act": "silu"}}
OLMO2 = {"rms_norm_eps": EPS}
GEMMA2 = {
    "head_dim": 16,
    "rms_norm_eps": EPS,
    "query_pre_attn_scalar": 5,
    "attn_logit_softcapping": 1.0,
    "final_logit_softcapping": 2.0,
    "sliding_window": 20,
}
GEMMA2_WITHOUT = {
    "its bound of scores": {"attn_logit_softcapping": None},
    "its bound of logits": {"final_logit_softcapping": None},
    "its scale of scores": {"query_pre_attn_scalar": 16},
    "its windows": {"sliding_window": None},
    "their layers": {"layer_types": ["full_attention", "sliding_attention"] * 2},
    "its GELU": {"hidden_activation": "silu"},
}
CASES = {
    "starcoder2": Case(
        model_type="starcoder2",
        changes=STARCODER2,
        without={"its GELU": OTHER_GELU["SiLU"], "its epsilon": {"norm_epsilon": 1e-5}},
        spoilt={"biases of norms": without_norm_biases, "means": with_rms_norms},
    ),
    "starcoder2-exact-tied": Case(
        model_type="starcoder2",
        changes=STARCODER2 | {"hidden_act": "gelu", "tie_word_embeddings": True, "head_dim": 16},
        without={"its GELU": OTHER_GELU["SiLU"]},
    ),
    "starcoder2-without-biases": Case(
        model_type="starcoder2", changes=STARCODER2 | {"use_bias": False, "rope_theta": 500.0}
    ),
    "olmo2": Case(
        model_type="olmo2",
        changes=OLMO2,
        without={"its epsilon": {"rms_norm_eps": 1e-5}},
        spoilt={
            "norms after": without_norms_after,
            "norms of queries and keys": without_query_and_key_norms,
            "all heads in them": with_norms_of_each_head,
        },
    ),
    "olmo2-biases-tied": Case(
        model_type="olmo2",
        changes=OLMO2
        | {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 6},
    ),
    "gemma2": Case(
        model_type="gemma2",
        draw=weights_less_one,
        changes=GEMMA2 | {"tie_word_embeddings": False},
        without=GEMMA2_WITHOUT,
        spoilt={"norms after": without_norms_after, "one more": with_plain_weights},
    ),
    "gemma2-tied-biases": Case(
        model_type="gemma2",
        draw=weights_less_one,
        changes=GEMMA2
        | {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "hidden_activation": "gelu",
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "gemma2-without-bounds": Case(
        model_type="gemma2",
        draw=weights_less_one,
        changes=GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
}
