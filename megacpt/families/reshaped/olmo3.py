# SPDX-License-Identifier: Apache-2.0
"""OLMo 3: OLMo 2 in which three of four layers have a window; their rotation is never stretched."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import FULL, LOCAL, HfConfig
from megacpt.families.reshaped import olmo2

MODEL_TYPE = "olmo3"
PARAMS = olmo2.PARAMS


def read(config: HfConfig) -> Architecture:
    stated = replace(config, values={"rope_theta": 500000.0, **config.values})
    architecture = olmo2.read(stated, rope=stated.rope(layer_type=FULL))
    return replace(
        architecture,
        family=MODEL_TYPE,
        local_rope=stated.rope(layer_type=LOCAL).rope,
        sliding_window=config.local_window(default=4096),
        full_attention_layers=config.full_attention_layers(
            num=architecture.num_layers, default=lambda layer: layer % 4 == 3
        ),
    )
