# SPDX-License-Identifier: Apache-2.0
"""Granite 3 MoE: Granite with experts in all layers."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import granite, llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture
from megacpt.families.weights import Part

MODEL_TYPE = "granitemoe"

_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.block_sparse_moe")
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
_STORED = {
    ".mlp.gate.": ".block_sparse_moe.router.layer.",
    ".mlp.experts.gate_up_proj": ".block_sparse_moe.input_linear.weight",
    ".mlp.experts.down_proj": ".block_sparse_moe.output_linear.weight",
}
"""What its folders call the router, and the experts of a layer, which they hold as one tensor."""


def parts(architecture: Architecture) -> dict[str, Part]:
    found = _MIXTURE.parts(architecture)
    for others, own in _STORED.items():
        found = {n: replace(part, name=part.name.replace(others, own)) for n, part in found.items()}
    return found


def read(config: HfConfig) -> Architecture:
    experts = mixture.read(config, num=8, per_token=2, renormalised=True)
    as_granite = HfConfig(path=config.path, values={**config.values, "mlp_bias": False})
    return replace(granite.read(as_granite), family=MODEL_TYPE, experts=experts)
