# SPDX-License-Identifier: Apache-2.0
"""GLM-4 of 0414 and after: GLM with further norms after attention and MLP."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms
from megacpt.families.hf_config import HfConfig
from megacpt.families.reshaped import glm
from megacpt.families.weights import renamed

MODEL_TYPE = "glm4"
PARAMS = renamed(
    glm.PARAMS,
    names={
        "post_self_attn_layernorm": "post_self_attn_layernorm",
        "post_mlp_layernorm": "post_mlp_layernorm",
    },
)
parts = glm.parts


def read(config: HfConfig) -> Architecture:
    return replace(glm.read(config), family=MODEL_TYPE, norms=Norms(after=True))
