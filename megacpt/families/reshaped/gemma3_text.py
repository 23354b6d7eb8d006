# SPDX-License-Identifier: Apache-2.0
"""Gemma 3, its text part: Gemma 2 without bounds of scores, with norms of each head's query, key.
Five of six layers have a window and a rotation of their own."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import FULL, LOCAL, HfConfig
from megacpt.families.reshaped import gemma2

MODEL_TYPE = "gemma3_text"
PARAMS, NAMES = gemma2.PARAMS, gemma2.NAMES

_DEFAULTS = {"max_position_embeddings": 131072, "rope_theta": 1e6}
"""transformers' Gemma3TextConfig, where it differs from Gemma2Config."""


def read(config: HfConfig) -> Architecture:
    config.require("attn_logit_softcapping", wanted=None, default=None)
    stated = replace(config, values={**_DEFAULTS, **config.values})
    theta = config.number("rope_local_base_freq", default=1e4)
    local = replace(config, values={**config.values, "rope_theta": theta})
    architecture = gemma2.read_gemma(stated, rope=stated.rope(layer_type=FULL))
    cap = config.cap("final_logit_softcapping", default=None)
    pattern = config.integer("sliding_window_pattern", default=6)
    return replace(
        architecture,
        family=MODEL_TYPE,
        qk_norm=True,
        scales=replace(architecture.scales, logits_cap=cap),
        local_rope=local.rope(layer_type=LOCAL).rope,
        full_attention_layers=config.full_attention_layers(
            num=architecture.num_layers, default=lambda layer: (layer + 1) % pattern == 0
        ),
    )
