# SPDX-License-Identifier: Apache-2.0
"""Qwen3: Llama with an RMSNorm on each head's query and key, before they are rotated."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama, qwen2
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "qwen3"
PARAMS = llama.PARAMS

_DEFAULTS = {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768}
"""transformers' Qwen3Config, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values, "mlp_bias": False}
    as_llama = HfConfig(path=config.path, values=values)
    architecture = replace(llama.read(as_llama), family=MODEL_TYPE, qk_norm=True)
    return qwen2.with_windows(architecture, config=config)
