# SPDX-License-Identifier: Apache-2.0
"""Qwen3-MoE: Qwen3 with experts in all layers or some, whose weights may sum to less than one."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Experts
from megacpt.families.dense import llama, qwen3
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture

MODEL_TYPE = "qwen3_moe"

_DEFAULTS = {"num_key_value_heads": 4}
"""transformers' Qwen3MoeConfig, where it differs from Qwen3Config."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    ffn = {"intermediate_size": config.integer("moe_intermediate_size", default=768)}
    head_dim = {"head_dim": config.head_dim()}
    experts = read_experts(config, num=128, per_token=8, dense_ffn=6144)
    values = {**_DEFAULTS, **config.values, **ffn, **head_dim}
    as_qwen3 = HfConfig(path=config.path, values=values)
    # A window is one of all layers here.
    return replace(
        qwen3.read(as_qwen3), family=MODEL_TYPE, experts=experts, full_attention_layers=()
    )


def read_experts(config: HfConfig, *, num: int, per_token: int, dense_ffn: int) -> Experts:
    """Of a Qwen with experts; numbers are the family's defaults."""
    named = {"num_local_experts": config.integer("num_experts", default=num), **config.values}
    experts = mixture.read(
        HfConfig(path=config.path, values=named),
        num=num,
        per_token=per_token,
        renormalised=config.flag("norm_topk_prob"),
    )
    step = config.integer("decoder_sparse_step", default=1)
    between = {n for n in range(config.integer("num_hidden_layers")) if (n + 1) % step}
    return mixture.with_dense_layers(
        experts,
        config=config,
        layers=tuple(between.union(config.layers("mlp_only_layers"))),
        ffn_hidden_size=config.integer("intermediate_size", default=dense_ffn),
    )
