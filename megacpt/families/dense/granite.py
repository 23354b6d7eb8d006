# SPDX-License-Identifier: Apache-2.0
"""Granite 3 (dense): Llama with multipliers of embeddings, attention, residuals and logits."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Scales
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig

MODEL_TYPE = "granite"
PARAMS = llama.PARAMS


def read(config: HfConfig) -> Architecture:
    scales = Scales(
        embedding=config.number("embedding_multiplier", default=1.0),
        attention=config.number("attention_multiplier", default=1.0),
        residual=config.number("residual_multiplier", default=1.0),
        logits=1.0 / config.number("logits_scaling", default=1.0),
    )
    return replace(llama.read(config), family=MODEL_TYPE, scales=scales)
