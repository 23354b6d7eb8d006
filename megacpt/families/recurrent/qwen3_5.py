# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5 (text, dense): three layers of gated delta nets to one of gated attention."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.recurrent import delta_net
from megacpt.families.weights import Part

MODEL_TYPE = "qwen3_5_text"

_DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
}
"""transformers' Qwen3_5TextConfig, where it differs from LlamaConfig."""
_PROJECTIONS = (
    *delta_net.mixed("in_proj_qkv", "hidden"),
    delta_net.projection("in_proj_z", size="delta_v"),
    delta_net.projection("in_proj_b", size="delta_heads"),
    delta_net.projection("in_proj_a", size="delta_heads"),
)
BEFORE_MLP = tuple(delta_net.rows(llama.BEFORE_MLP, projections=_PROJECTIONS))
PARAMS = (*BEFORE_MLP, *llama.MLP, *llama.AFTER_LAYERS)


def parts(architecture: Architecture) -> dict[str, Part]:
    mixed = delta_net.mixed_parts(architecture, name="in_proj_qkv")
    return delta_net.parts(architecture) | mixed


def read(config: HfConfig) -> Architecture:
    config.require("attention_bias", wanted=False, default=False)
    values = {**_DEFAULTS, **config.values, "mlp_bias": False}
    as_llama = HfConfig(path=config.path, values=values)
    architecture = llama.read(as_llama, rope=as_llama.rope(may_be_partial=True))
    return replace(
        architecture,
        family=MODEL_TYPE,
        qk_norm=True,
        norms=Norms(plus_one=True, scaled_wide=True),
        attention_gate=True,
        delta_net=delta_net.read(config, num_layers=architecture.num_layers),
    )
