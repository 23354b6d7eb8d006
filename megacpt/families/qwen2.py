# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5: Llama with biases of query, key and value alone."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families import llama
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "qwen2"
PARAMS = llama.PARAMS

_DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
"""transformers' Qwen2Config, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}


def read(config: HfConfig) -> Architecture:
    config.require("use_sliding_window", wanted=False, default=False)
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    return replace(llama.read(as_llama), family=MODEL_TYPE, qkv_bias=True)
