# SPDX-License-Identifier: Apache-2.0
"""SmolLM3: Llama in which some layers, every fourth of the published model, have no positions;
these may have a window."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "smollm3"
PARAMS = llama.PARAMS

_DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "pad_token_id": 128004,
}
"""transformers' SmolLM3Config, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values})
    architecture = replace(llama.read(as_llama), family=MODEL_TYPE)
    without_rope = layers_without_rope(config, num_layers=architecture.num_layers)
    architecture = replace(architecture, no_rope_layers=without_rope)
    window = config.window("sliding_window", default=None)
    if not config.flag("use_sliding_window") or window is None:
        return architecture
    full = config.full_attention_layers(
        num=architecture.num_layers, default=lambda layer: layer not in without_rope
    )
    return replace(architecture, sliding_window=window, full_attention_layers=full)


def layers_without_rope(config: HfConfig, *, num_layers: int) -> tuple[int, ...]:
    """Their numbers, from 0."""
    interval = config.integer("no_rope_layer_interval", default=4)
    every = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    has_rope = config.flags("no_rope_layers", num=num_layers, default=every)
    return tuple(layer for layer, has in enumerate(has_rope) if not has)
