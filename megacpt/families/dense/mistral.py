# SPDX-License-Identifier: Apache-2.0
"""Mistral: Llama without biases whose tokens may see only the last ones before them."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "mistral"
PARAMS = llama.PARAMS

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072}
"""transformers' MistralConfig, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}


def read(config: HfConfig) -> Architecture:
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    window = config.window("sliding_window", default=4096)
    return replace(llama.read(as_llama), family=MODEL_TYPE, sliding_window=window)
