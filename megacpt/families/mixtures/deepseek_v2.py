# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V2 and V2-Lite: latent attention; experts in groups, and some that all tokens pass."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Routing
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import deepseek_v3, latent, mixture

MODEL_TYPE = "deepseek_v2"

_DEFAULTS = {"n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407}
"""transformers' DeepseekV2Config."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*latent.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    config.require("mlp_bias", wanted=False, default=False)
    config.integer("num_experts_per_tok")  # It has no default.
    # transformers does not renormalise, whatever this says.
    config.require("norm_topk_prob", wanted=False, default=False)
    values = {**_DEFAULTS, **config.values}
    with_defaults = HfConfig(path=config.path, values=values)
    experts = deepseek_v3.read_experts(
        with_defaults,
        first_dense=0,
        dense_ffn=11008,
        renormalised=False,
        routing=_routing(with_defaults),
    )
    return replace(latent.read(with_defaults), family=MODEL_TYPE, experts=experts)


def _routing(config: HfConfig) -> Routing:
    scale = config.number("routed_scaling_factor", default=1.0)
    config.require("topk_method", wanted="greedy", default="greedy", also=("group_limited_greedy",))
    if config.values.get("topk_method", "greedy") == "greedy":
        return Routing(scale=scale)
    return Routing(
        scale=scale,
        groups=config.integer("n_group"),
        groups_per_token=config.integer("topk_group"),
        group_scored_by=1,
    )
