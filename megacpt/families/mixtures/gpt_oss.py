# SPDX-License-Identifier: Apache-2.0
"""gpt-oss: Llama with biases everywhere and experts, whose gate and up are bounded; each head's
softmax has a learned term more, its sink; every second layer has a window."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, BoundedGlu, Norms
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture
from megacpt.families.weights import HfTensor, Param, Role

MODEL_TYPE = "gpt_oss"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 150000.0,
    "attention_bias": True,
}
"""transformers' GptOssConfig, where it differs from LlamaConfig."""
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_MIXTURE = mixture.Mixture(
    folder="model.layers.{layer}.mlp", router="router", transposed=True, alternating=True
)
_SINKS = Param(
    native="decoder.layers.{layer}.self_attention.core_attention.softmax_offset",
    sources=(HfTensor(name="model.layers.{layer}.self_attn.sinks", dims=("heads",)),),
    role=Role.bias,
    tp_dim=0,
)
PARAMS = (*llama.BEFORE_MLP, _SINKS, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values, "mlp_bias": True}
    if not config.stated_rope()[1]:
        values["rope_parameters"] = _ROPE
    architecture = llama.read(HfConfig(path=config.path, values=values))
    return replace(
        architecture,
        family=MODEL_TYPE,
        experts=mixture.read(config, num=128, per_token=4, renormalised=True),
        norms=Norms(scaled_wide=True),
        sinks=True,
        bounded_glu=BoundedGlu(
            slope=config.number("swiglu_alpha", default=1.702),
            limit=config.number("swiglu_limit", default=7.0),
        ),
        sliding_window=config.local_window(default=128),
        full_attention_layers=config.full_attention_layers(
            num=architecture.num_layers, default=lambda layer: layer % 2 == 1
        ),
    )
