# SPDX-License-Identifier: Apache-2.0
"""Qwen3-MoE: Qwen3 with experts in every layer, whose weights may sum to less than one."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families import llama, mixture, qwen3
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "qwen3_moe"

_DEFAULTS = {"num_key_value_heads": 4}
"""transformers' Qwen3MoeConfig, where it differs from Qwen3Config."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    config.require("decoder_sparse_step", wanted=1, default=1)
    config.require("mlp_only_layers", wanted=[], default=[])
    # Of an expert; intermediate_size is that of layers without any, of which there are none.
    ffn = {"intermediate_size": config.integer("moe_intermediate_size", default=768)}
    head_dim = {"head_dim": config.head_dim()}
    num = {"num_local_experts": config.integer("num_experts", default=128)}
    named = HfConfig(path=config.path, values={**num, **config.values})
    experts = mixture.read(named, num=128, per_token=8, renormalised=config.flag("norm_topk_prob"))
    values = {**_DEFAULTS, **config.values, **ffn, **head_dim}
    as_qwen3 = HfConfig(path=config.path, values=values)
    # A window is one of all layers here.
    return replace(
        qwen3.read(as_qwen3), family=MODEL_TYPE, experts=experts, full_attention_layers=()
    )
