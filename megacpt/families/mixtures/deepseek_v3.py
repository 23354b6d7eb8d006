# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V3 and R1: latent attention, experts scored by sigmoids, a bias that corrects their
choice."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Experts, Routing
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import latent, mixture

MODEL_TYPE = "deepseek_v3"

_DEFAULTS = {
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
}
"""transformers' DeepseekV3Config, where it differs from LlamaConfig."""
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp")
PARAMS = (*latent.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values}
    with_defaults = HfConfig(path=config.path, values=values)
    experts = read_experts(
        with_defaults,
        first_dense=3,
        dense_ffn=18432,
        renormalised=config.flag("norm_topk_prob", default=True),
        routing=corrected_routing(with_defaults),
    )
    architecture = replace(latent.read(with_defaults), family=MODEL_TYPE, experts=experts)
    return replace(architecture, rotary_pairs=config.flag("rope_interleave", default=True))


def corrected_routing(config: HfConfig) -> Routing:
    """Sigmoids and a correction bias."""
    return Routing(
        sigmoid=True,
        correction_bias=True,
        groups=config.integer("n_group"),
        groups_per_token=config.integer("topk_group"),
        group_scored_by=2,
        scale=config.number("routed_scaling_factor"),
    )


def read_experts(
    config: HfConfig, *, first_dense: int, dense_ffn: int, renormalised: bool, routing: Routing
) -> Experts:
    """With DeepSeek's keys; numbers are the family's defaults."""
    num, inner = config.integer("n_routed_experts"), config.integer("moe_intermediate_size")
    named = {
        "router_aux_loss_coef": config.number("aux_loss_alpha", default=0.001),
        **config.values,
        "num_local_experts": num,
    }
    experts = mixture.read(
        HfConfig(path=config.path, values=named), num=num, per_token=8, renormalised=renormalised
    )
    config.require_between("topk_group", value=routing.groups_per_token, low=1, high=routing.groups)
    most = num // routing.group_scored_by
    config.require_between("n_group", value=routing.groups, low=1, high=most)
    config.require_divisor("n_group", value=routing.groups, of=num)
    within = routing.groups_per_token * (num // routing.groups)
    config.require_between("num_experts_per_tok", value=experts.per_token, low=2, high=within)
    dense = config.values.get("first_k_dense_replace", first_dense)
    return mixture.with_dense_layers(
        replace(
            experts,
            routing=routing,
            shared_ffn_hidden_size=inner * config.integer("n_shared_experts"),
        ),
        config=config,
        layers=tuple(range(dense or 0)),
        ffn_hidden_size=config.integer("intermediate_size", default=dense_ffn),
    )
