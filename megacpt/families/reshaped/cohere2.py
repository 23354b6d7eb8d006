# SPDX-License-Identifier: Apache-2.0
"""Cohere 2 (Command R7B, Command A): Cohere in which three of four layers have a window, and the
others no positions."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.reshaped import cohere

MODEL_TYPE = "cohere2"
PARAMS, NAMES = cohere.PARAMS, cohere.NAMES


def read(config: HfConfig) -> Architecture:
    architecture = cohere.read_cohere(config)
    pattern = config.integer("sliding_window_pattern", default=4)
    full = config.full_attention_layers(
        num=architecture.num_layers, default=lambda layer: (layer + 1) % pattern == 0
    )
    return replace(
        architecture,
        family=MODEL_TYPE,
        sliding_window=config.local_window(default=4096),
        full_attention_layers=full,
        no_rope_layers=full,
    )
