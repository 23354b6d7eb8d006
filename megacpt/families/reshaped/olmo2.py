# SPDX-License-Identifier: Apache-2.0
"""OLMo 2: Llama with norms after attention and MLP alone, and over the queries and the keys of all
heads."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.rope import StatedRope

MODEL_TYPE = "olmo2"
PARAMS = llama.PARAMS

_DEFAULTS = {"rms_norm_eps": 1e-5, "eos_token_id": 50279, "pad_token_id": 1}
"""transformers' Olmo2Config, where it differs from LlamaConfig."""


def read(config: HfConfig, *, rope: StatedRope | None = None) -> Architecture:
    """``rope``: as for Llama."""
    own = {"hidden_act": "silu", "mlp_bias": False}
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **own})
    return replace(
        llama.read(as_llama, rope=rope),
        family=MODEL_TYPE,
        norms=Norms(scaled_wide=True, before=False, after=True),
        qk_norm_over_heads=True,
        activation=config.activation("hidden_act", default="silu"),
    )
