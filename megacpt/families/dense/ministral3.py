# SPDX-License-Identifier: Apache-2.0
"""Ministral 3: Llama without biases whose queries grow with their position."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, QueryGrowth
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "ministral3"
PARAMS = llama.PARAMS

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144,
}
"""transformers' Ministral3Config, where it differs from LlamaConfig."""
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_BIASES = {"attention_bias": False, "mlp_bias": False}


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values, **_BIASES}
    _, stated = config.stated_rope()
    if not stated:
        stated = values["rope_parameters"] = _ROPE
    as_llama = HfConfig(path=config.path, values=values)
    rope = HfConfig(path=config.path, values={**as_llama.values, **stated})
    growth = QueryGrowth(
        rate=rope.number("llama_4_scaling_beta"),
        original_max_positions=rope.integer("original_max_position_embeddings"),
    )
    return replace(
        llama.read(as_llama),
        family=MODEL_TYPE,
        query_growth=growth,
        sliding_window=config.window("sliding_window", default=None),
    )
