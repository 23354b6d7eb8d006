# SPDX-License-Identifier: Apache-2.0
"""gpt-oss: sinks, biases everywhere, a bounded gate, windows on some layers, unrounded yarn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.family_cases import Case

FULL, LOCAL = "full_attention", "sliding_attention"
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "truncate": False,
}
SMALL = {
    "intermediate_size": 40,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 11,
    "swiglu_limit": 0.5,
    "rope_parameters": YARN,
    "pad_token_id": None,
}


def draw(name: str, parameter: torch.nn.Parameter) -> bool:
    """Sinks as large as scores; biases of experts, which are matrices."""
    if name.endswith("sinks"):
        parameter.data.normal_(0.5, 1.0)
    elif name.endswith("proj_bias"):
        parameter.data.normal_(0.0, 0.3)
    else:
        return False
    return True


def experts_of(model: Any) -> Iterator[Any]:
    for layer in model.decoder.layers:
        yield from layer.mlp.experts.local_experts


def without_sinks(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.core_attention.softmax_offset.data.fill_(-1e4)


def without_router_bias(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.mlp.router.bias.data.zero_()


def without_bias(linear: str) -> Callable[[Any], None]:
    def take_away(model: Any) -> None:
        for expert in experts_of(model):
            getattr(expert, linear).bias.data.zero_()

    return take_away


def without_one_more(model: Any) -> None:
    for expert in experts_of(model):
        expert.config.glu_linear_offset = 0.0


def without_attention_bias(model: Any) -> None:
    for layer in model.decoder.layers:
        layer.self_attention.linear_qkv.bias.data.zero_()


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_parameters": YARN | changes}


SPOILT = {
    "sinks": without_sinks,
    "bias of the router": without_router_bias,
    "bias of gate and up": without_bias("linear_fc1"),
    "bias of down": without_bias("linear_fc2"),
    "one more than up": without_one_more,
}
WIDE = {"bounds": {"swiglu_limit": 1e3}}
CASES = {
    "windows": Case(
        model_type="gpt_oss",
        changes=SMALL,
        without={
            **{f"a window of {w}": {"sliding_window": w} for w in (10, 12)},
            "the layers": {"layer_types": [FULL, LOCAL, FULL, LOCAL]},
            "unrounded yarn": rope(truncate=True),
            **WIDE,
        },
        spoilt=SPOILT | {"bias of attention": without_attention_bias},
        draw=draw,
    ),
    "plain-rope-tied": Case(
        model_type="gpt_oss",
        changes=SMALL
        | {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "tie_word_embeddings": True,
            "layer_types": [FULL, FULL, LOCAL, FULL],
            "swiglu_limit": 0.3,
            "swiglu_alpha": 3.0,
        },
        without={"slope": {"swiglu_alpha": 1.702}, **WIDE},
        spoilt=SPOILT,
        draw=draw,
    ),
    "no-bias-of-attention-top3-of-6": Case(
        model_type="gpt_oss",
        changes=SMALL
        | {
            "attention_bias": False,
            "num_key_value_heads": 6,
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "intermediate_size": 48,
            "rms_norm_eps": 1e-2,
        },
        without={"epsilon": {"rms_norm_eps": 1e-5}},
        spoilt=SPOILT,
        draw=draw,
    ),
    "local-alone-yarn-of-other-bounds": Case(
        model_type="gpt_oss",
        changes=SMALL
        | rope(beta_fast=4.0, beta_slow=2.0, attention_factor=1.5)
        | {"layer_types": [LOCAL] * 4, "sliding_window": 5, "head_dim": 8},
        without={"factor of queries and keys": rope(beta_fast=4.0, beta_slow=2.0)},
        spoilt={"sinks": without_sinks},
        draw=draw,
    ),
    "every-expert-one-group": Case(
        model_type="gpt_oss",
        changes=SMALL
        | {"num_experts_per_tok": 4, "num_attention_heads": 4, "layer_types": [FULL] * 4},
        without={"windows": {"layer_types": [LOCAL] * 4}},
        spoilt={"sinks": without_sinks},
        draw=draw,
    ),
    "as-published": Case(
        model_type="gpt_oss",
        changes={
            "intermediate_size": 32,
            "hidden_size": 64,
            "num_local_experts": 4,
            "num_attention_heads": 2,
            "max_position_embeddings": ...,
            "pad_token_id": None,
        },
        without={"theta": {"rope_parameters": {**YARN, "factor": 32.0}}},
        spoilt=SPOILT,
        draw=draw,
    ),
}
