# SPDX-License-Identifier: Apache-2.0
"""Qwen3-Next: layers of Qwen3.5, with experts in all or some, and a gated MLP beside them that all
tokens pass."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.recurrent import delta_net, qwen3_5_moe
from megacpt.families.weights import Part

MODEL_TYPE = "qwen3_next"

# Its folders hold them as a net does: one key head after another.
_PROJECTIONS = (
    delta_net.projection("in_proj_qkvz", size="delta_qkvz"),
    delta_net.projection("in_proj_ba", size="delta_ba"),
)
PARAMS = (
    *delta_net.rows(llama.BEFORE_MLP, projections=_PROJECTIONS),
    *qwen3_5_moe.MIXTURE.rows(),
    *llama.AFTER_LAYERS,
)


def parts(architecture: Architecture) -> dict[str, Part]:
    return delta_net.parts(architecture) | qwen3_5_moe.parts_of_experts(architecture)


def read(config: HfConfig) -> Architecture:
    architecture = qwen3_5_moe.with_experts(config, num=512, per_token=10)
    return replace(architecture, family=MODEL_TYPE)
