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


FULL, LOCAL = "full_attention", "sliding_attention"
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
    "its windows": {"sliding_window": 200},
    "their layers": {"layer_types": [FULL, LOCAL] * 2},
    "its GELU": {"hidden_activation": "silu"},
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 300.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 3000.0}


def ropes(whole: dict[str, Any], *, local_theta: float) -> dict[str, Any]:
    local = {"rope_type": "default", "rope_theta": local_theta}
    return {"rope_parameters": {FULL: whole, LOCAL: local}}


OLMO3 = OLMO2 | ropes(YARN, local_theta=300.0) | {"sliding_window": 20}
OLMO3_WITHOUT = {
    "its windows": {"sliding_window": 200},
    "their layers": {"layer_types": [FULL, LOCAL] * 2},
    "its stretching": ropes({"rope_type": "default"}, local_theta=300.0),
    "two ropes": {"rope_parameters": {FULL: YARN, LOCAL: YARN}},
}
GEMMA3 = (
    {key: value for key, value in GEMMA2.items() if not key.endswith("softcapping")}
    | ropes(LINEAR, local_theta=50.0)
    | {"layer_types": [LOCAL, LOCAL, FULL, LOCAL], "final_logit_softcapping": 2.0}
)
GEMMA3_WITHOUT = {
    "its windows": {"sliding_window": 200},
    "their layers": {"layer_types": [LOCAL, FULL, LOCAL, LOCAL]},
    "its bound of logits": {"final_logit_softcapping": None},
    "its scale of scores": {"query_pre_attn_scalar": 16},
    "its stretching": ropes({"rope_type": "default", "rope_theta": 3000.0}, local_theta=50.0),
    "a rope of local layers": ropes(LINEAR, local_theta=3000.0),
    "its GELU": {"hidden_activation": "silu"},
}
COHERE = {"layer_norm_eps": EPS, "logit_scale": 0.3, "tie_word_embeddings": False}
COHERE_WITHOUT = {
    "its scale of logits": {"logit_scale": 1.0},
    "its epsilon": {"layer_norm_eps": 1e-5},
}


def with_halves_turned(model: Any) -> None:
    """As Llama rotates."""
    model.config.rotary_interleaved = model.rotary_pos_emb.rotary_interleaved = False


def one_after_the_other(model: Any) -> None:
    """The MLP takes what attention has changed."""
    for layer in model.decoder.layers:
        layer.forward = _serial(layer)


def _serial(layer: Any) -> Any:
    def forward(hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        for name in ("context", "context_mask", "padding_mask"):
            kwargs.pop(name, None)
        attended, _ = layer.self_attention(layer.input_layernorm(hidden_states), **kwargs)
        out = hidden_states + attended
        return out + layer.mlp(layer.input_layernorm(out))[0], None

    return forward


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
            "layer_types": [FULL, LOCAL] * 2,
        },
    ),
    "gemma2-without-bounds": Case(
        model_type="gemma2",
        draw=weights_less_one,
        changes=GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "olmo3": Case(
        model_type="olmo3",
        changes=OLMO3,
        without=OLMO3_WITHOUT,
        spoilt={"norms after": without_norms_after},
    ),
    "olmo3-biases-tied": Case(
        model_type="olmo3",
        changes=OLMO3
        | {
            "attention_bias": True,
            "tie_word_embeddings": True,
            "layer_types": [FULL, LOCAL, LOCAL, FULL],
            "num_key_value_heads": 6,
        },
    ),
    "gemma3": Case(
        model_type="gemma3_text",
        draw=weights_less_one,
        changes=GEMMA3 | {"tie_word_embeddings": False},
        without=GEMMA3_WITHOUT,
        spoilt={
            "norms after": without_norms_after,
            "norms of queries and keys": without_query_and_key_norms,
            "one more": with_plain_weights,
        },
    ),
    "gemma3-tied-biases": Case(
        model_type="gemma3_text",
        draw=weights_less_one,
        changes=GEMMA3
        | {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "hidden_activation": "gelu",
            "final_logit_softcapping": None,
            "num_key_value_heads": 6,
        },
    ),
    "cohere": Case(
        model_type="cohere",
        changes=COHERE | {"rope_theta": 300.0},
        without=COHERE_WITHOUT,
        spoilt={
            "means": with_rms_norms,
            "its neighbours": with_halves_turned,
            "one beside the other": one_after_the_other,
        },
    ),
    "cohere2-tied": Case(
        model_type="cohere2",
        changes=COHERE | {"sliding_window": 20, "tie_word_embeddings": True, "rope_theta": 300.0},
        without=COHERE_WITHOUT
        | {
            "its windows": {"sliding_window": 200},
            "their layers": {"layer_types": [LOCAL, FULL, LOCAL, LOCAL]},
        },
        spoilt={"its neighbours": with_halves_turned},
    ),
    "cohere2-biases": Case(
        model_type="cohere2",
        changes=COHERE
        | {
            "sliding_window": 20,
            "attention_bias": True,
            "hidden_act": "gelu",
            # Without positions a bias of keys has no gradient but noise.
            "layer_types": [LOCAL] * 4,
        },
    ),
}
