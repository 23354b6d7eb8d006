# SPDX-License-Identifier: Apache-2.0
"""OLMoE: Llama with experts in all layers, and norms over the queries and the keys of all heads."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture

MODEL_TYPE = "olmoe"

_DEFAULTS = {
    "intermediate_size": 2048,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "num_experts": 64,
    "router_aux_loss_coef": 0.01,
    "eos_token_id": 50279,
    "pad_token_id": 1,
}
"""transformers' OlmoeConfig, where it differs from LlamaConfig."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    config.require("clip_qkv", wanted=None, default=None)
    values = {**_DEFAULTS, **config.values, "mlp_bias": False}
    values = {"num_local_experts": values["num_experts"], **values}
    with_defaults = HfConfig(path=config.path, values=values)
    experts = mixture.read(
        with_defaults, num=64, per_token=8, renormalised=config.flag("norm_topk_prob")
    )
    return replace(
        llama.read(with_defaults), family=MODEL_TYPE, experts=experts, qk_norm_over_heads=True
    )
