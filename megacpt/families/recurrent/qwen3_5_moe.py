# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5-MoE (text): Qwen3.5 with experts in all layers, and a gated MLP beside them that all
tokens pass."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture, qwen2_moe
from megacpt.families.recurrent import qwen3_5
from megacpt.families.weights import Part

MODEL_TYPE = "qwen3_5_moe_text"

MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp", shared="shared_expert")
PARAMS = (*qwen3_5.BEFORE_MLP, *MIXTURE.rows(), *llama.AFTER_LAYERS)


def parts(architecture: Architecture) -> dict[str, Part]:
    return qwen3_5.parts(architecture) | parts_of_experts(architecture)


def parts_of_experts(architecture: Architecture) -> dict[str, Part]:
    """Of the tensors that hold all experts of a layer, as Qwen's own folders of 3.5 have them, and
    few others."""
    found = MIXTURE.parts(architecture).items()
    return {name: replace(part, optional=True) for name, part in found}


def read(config: HfConfig) -> Architecture:
    # transformers reads none of these, and computes what they say by default.
    config.require("norm_topk_prob", wanted=True, default=True)
    config.require("decoder_sparse_step", wanted=1, default=1)
    config.require("mlp_only_layers", wanted=[], default=[])
    return replace(with_experts(config, num=256, per_token=8), family=MODEL_TYPE)


def with_experts(config: HfConfig, *, num: int, per_token: int) -> Architecture:
    """A Qwen3.5 whose MLPs are mixtures; numbers are the family's defaults."""
    ffn = config.integer("moe_intermediate_size", default=512)
    values = {"num_key_value_heads": 2, "norm_topk_prob": True, **config.values}
    experts = qwen2_moe.read_experts(
        HfConfig(path=config.path, values=values), num=num, per_token=per_token, shared_ffn=512
    )
    of_one = HfConfig(path=config.path, values={**values, "intermediate_size": ffn})
    return replace(qwen3_5.read(of_one), experts=experts)
