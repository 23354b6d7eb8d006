# SPDX-License-Identifier: Apache-2.0
"""GLM-4.5 to 4.7: Llama in which half of each head turns, with DeepSeek-V3's experts; each head's
query and key may pass an RMSNorm."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import deepseek_v3, mixture

MODEL_TYPE = "glm4_moe"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "moe_intermediate_size": 1408,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
}
"""transformers' Glm4MoeConfig, where it differs from LlamaConfig."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values}
    with_defaults = HfConfig(path=config.path, values=values)
    experts = deepseek_v3.read_experts(
        with_defaults,
        first_dense=1,
        dense_ffn=10944,
        renormalised=config.flag("norm_topk_prob", default=True),
        routing=deepseek_v3.corrected_routing(with_defaults),
    )
    ffn = {"intermediate_size": with_defaults.integer("moe_intermediate_size")}
    # The output has no bias.
    as_llama = HfConfig(
        path=config.path, values={**values, **ffn, "attention_bias": False, "mlp_bias": False}
    )
    return replace(
        llama.read(as_llama, rope=as_llama.rope(may_be_partial=True)),
        family=MODEL_TYPE,
        experts=experts,
        qkv_bias=config.flag("attention_bias"),
        qk_norm=config.flag("use_qk_norm"),
    )
