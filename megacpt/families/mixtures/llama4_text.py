# SPDX-License-Identifier: Apache-2.0
"""Llama 4, its text part: three of four layers see chunks of the text, the others have no positions
and queries that grow with theirs; an expert takes its share of a token, beside an MLP that takes it
all."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Experts, QueryGrowth, Routing
from megacpt.families.dense import llama, smollm3
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture

MODEL_TYPE = "llama4_text"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 5e5,
}
"""transformers' Llama4TextConfig, where it differs from LlamaConfig."""
_CHUNKED = "chunked_attention"
_GROWS = "attn_temperature_tuning"
_FOLDER = "model.layers.{layer}.feed_forward"
_MIXTURE = mixture.Mixture(
    folder=_FOLDER, router="router", shared="shared_expert", stacked=_FOLDER, transposed=True
)
PARAMS = (*llama.BEFORE_MLP, *_MIXTURE.rows(), *llama.AFTER_LAYERS)
parts = _MIXTURE.parts


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values, "mlp_bias": False}
    architecture = llama.read(HfConfig(path=config.path, values=values))
    num = architecture.num_layers
    # To transformers an empty list is none.
    stated = {**config.values, "no_rope_layers": config.values.get("no_rope_layers") or None}
    without = smollm3.layers_without_rope(replace(config, values=stated), num_layers=num)
    return replace(
        architecture,
        family=MODEL_TYPE,
        experts=_experts(config, architecture=architecture),
        rotary_pairs=True,
        rotated_qk_norm=config.flag("use_qk_norm", default=True),
        no_rope_layers=without,
        query_growth=_growth(config),
        attention_chunk=config.local_window(default=8192, key="attention_chunk_size"),
        full_attention_layers=config.full_attention_layers(
            num=num, default=lambda layer: layer in without, local=_CHUNKED
        ),
    )


def _growth(config: HfConfig) -> QueryGrowth | None:
    stated = config.values.get(_GROWS)
    # The first folders have a number there.
    known = bool(stated) if isinstance(stated, int) else stated
    if not replace(config, values={_GROWS: known}).flag(_GROWS, default=True):
        return None
    return QueryGrowth(
        rate=config.number("attn_scale", default=0.1),
        original_max_positions=config.integer("floor_scale", default=8192),
        first=1,
        unrotated=True,
    )


def _experts(config: HfConfig, *, architecture: Architecture) -> Experts:
    num = architecture.num_layers
    step = config.integer("interleave_moe_layer_step", default=1)
    with_experts = tuple(range(step - 1, num, step))
    if config.values.get("moe_layers") is not None:
        with_experts = config.layers("moe_layers")
    return mixture.with_dense_layers(
        replace(
            mixture.read(config, num=16, per_token=1, renormalised=False, fewest=1),
            routing=Routing(sigmoid=True),
            on_input=True,
            shared_ffn_hidden_size=architecture.ffn_hidden_size,
        ),
        config=config,
        layers=tuple(layer for layer in range(num) if layer not in with_experts),
        ffn_hidden_size=config.integer("intermediate_size_mlp", default=16384),
    )
