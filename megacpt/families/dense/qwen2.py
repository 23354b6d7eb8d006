# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5: Llama with biases of query, key and value alone."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "qwen2"
PARAMS = llama.PARAMS

_DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
"""transformers' Qwen2Config, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}


def read(config: HfConfig) -> Architecture:
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    return with_windows(
        replace(llama.read(as_llama), family=MODEL_TYPE, qkv_bias=True), config=config
    )


def with_windows(architecture: Architecture, *, config: HfConfig) -> Architecture:
    """The same whose later layers have a window, where ``use_sliding_window`` says so."""
    if not config.flag("use_sliding_window"):
        return architecture
    window = config.window("sliding_window", default=4096)
    if window is None:
        return architecture
    first = config.integer("max_window_layers", default=28, at_least=0)
    full = config.full_attention_layers(
        num=architecture.num_layers, default=lambda layer: layer < first
    )
    return replace(architecture, sliding_window=window, full_attention_layers=full)
