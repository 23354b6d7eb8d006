# SPDX-License-Identifier: Apache-2.0
"""GLM-4 in its first form: Llama with biases of query, key and value; neighbouring channels turn
together, in half of each head; folders hold gate and up in one tensor."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import Part, gate_and_up

MODEL_TYPE = "glm"
PARAMS = llama.PARAMS

_DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}
"""transformers' GlmConfig, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    as_llama = replace(config, values={**_DEFAULTS, **config.values, "mlp_bias": False})
    architecture = llama.read(as_llama, rope=as_llama.rope(may_be_partial=True))
    return replace(
        architecture,
        family=MODEL_TYPE,
        attention_bias=False,
        qkv_bias=architecture.attention_bias,
        rotary_pairs=True,
    )


def parts(architecture: Architecture) -> dict[str, Part]:
    layers = range(architecture.num_layers)
    found = (gate_and_up(architecture, mlp=f"model.layers.{layer}.mlp") for layer in layers)
    return {name: part for layer in found for name, part in layer}
