# SPDX-License-Identifier: Apache-2.0
"""StarCoder2: Llama with LayerNorms, an MLP without gate, and biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import renamed

MODEL_TYPE = "starcoder2"
PARAMS = renamed(llama.PARAMS, names={"linear_fc1": "c_fc", "linear_fc2": "c_proj"})
NAMES = {"rms_norm_eps": "norm_epsilon"}

_DEFAULTS = {
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.018042,
    "tie_word_embeddings": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}
"""transformers' Starcoder2Config, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    stated = HfConfig(path=config.path, values={"use_bias": True, **_DEFAULTS, **config.values})
    bias = stated.flag("use_bias")
    own = {
        "attention_bias": bias,
        "mlp_bias": bias,
        "rms_norm_eps": stated.number("norm_epsilon", default=1e-5),
        "hidden_act": "silu",
    }
    return replace(
        llama.read(HfConfig(path=config.path, values={**stated.values, **own})),
        family=MODEL_TYPE,
        norms=Norms(centred=True, bias=True, scaled_wide=True),
        gated=False,
        activation=config.activation("hidden_act", default="gelu_pytorch_tanh"),
        sliding_window=config.window("sliding_window", default=None),
    )
