# SPDX-License-Identifier: Apache-2.0
"""Mixtral: Llama with a mixture of experts for its MLP, and no biases.

The router takes the softmax over all experts and renormalises it over those chosen, which is the
softmax over the chosen alone.
"""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture

MODEL_TYPE = "mixtral"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
}
"""transformers' MixtralConfig, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}
_MIXTURE = mixture.Mixture(
    folder="model.layers.{layer}.block_sparse_moe", gate="w1", up="w3", down="w2"
)
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    config.require("router_jitter_noise", wanted=0.0, default=0.0)
    experts = mixture.read(config, num=8, per_token=2, renormalised=True)
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    return replace(
        llama.read(as_llama),
        family=MODEL_TYPE,
        experts=experts,
        sliding_window=config.window("sliding_window", default=None),
    )
