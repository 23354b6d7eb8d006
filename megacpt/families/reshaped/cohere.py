# SPDX-License-Identifier: Apache-2.0
"""Cohere (Command R): attention and MLP beside each other after one LayerNorm without bias, which
rotate neighbouring channels; scaled logits."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms, Scales
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "cohere"
PARAMS = llama.PARAMS
NAMES = {"rms_norm_eps": "layer_norm_eps"}

_DEFAULTS = {
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "pad_token_id": 0,
}
"""transformers' CohereConfig, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    config.require("use_qk_norm", wanted=False, default=False)
    stated = {"rope_theta": 500000.0, **config.values}
    return replace(read_cohere(replace(config, values=stated)), family=MODEL_TYPE)


def read_cohere(config: HfConfig) -> Architecture:
    """What Cohere and Cohere 2 have in common."""
    own = {
        "hidden_act": "silu",
        "mlp_bias": False,
        "rms_norm_eps": config.number("layer_norm_eps", default=1e-5),
    }
    architecture = llama.read(replace(config, values={**_DEFAULTS, **config.values, **own}))
    size = architecture.hidden_size // architecture.num_heads
    config.require("head_dim", wanted=size, default=size)
    return replace(
        architecture,
        norms=Norms(centred=True, scaled_wide=True),
        parallel_mlp=True,
        activation=config.activation("hidden_act", default="silu"),
        rotary_pairs=True,
        scales=Scales(logits=config.number("logit_scale", default=0.0625)),
    )
