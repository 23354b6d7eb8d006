# SPDX-License-Identifier: Apache-2.0
"""Qwen2-MoE (Qwen1.5-MoE): Qwen2 with experts, and a gated MLP beside them that all tokens pass."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Experts
from megacpt.families.dense import llama, qwen2
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture, qwen3_moe

MODEL_TYPE = "qwen2_moe"

_DEFAULTS = {"num_key_value_heads": 16}
"""transformers' Qwen2MoeConfig, where it differs from Qwen2Config."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp", shared="shared_expert")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    config.require("use_sliding_window", wanted=False, default=False)
    experts = read_experts(config, num=60, per_token=4, shared_ffn=5632)
    ffn = {"intermediate_size": config.integer("moe_intermediate_size", default=1408)}
    # transformers writes a window of 0 for none.
    values = {**_DEFAULTS, **config.values, **ffn, "sliding_window": None}
    as_qwen2 = HfConfig(path=config.path, values=values)
    has_bias = config.flag("qkv_bias", default=True)
    return replace(qwen2.read(as_qwen2), family=MODEL_TYPE, experts=experts, qkv_bias=has_bias)


def read_experts(config: HfConfig, *, num: int, per_token: int, shared_ffn: int) -> Experts:
    """Of a Qwen with experts and an MLP beside them; numbers are the family's defaults."""
    return replace(
        qwen3_moe.read_experts(config, num=num, per_token=per_token, dense_ffn=5632),
        shared_ffn_hidden_size=config.integer(
            "shared_expert_intermediate_size", default=shared_ffn
        ),
        shared_gate=True,
    )
