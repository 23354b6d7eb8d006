# SPDX-License-Identifier: Apache-2.0
"""Gemma 2: norms before and after, of weights less one; GELU; scaled embeddings; bounded scores and
logits; every second layer with a window."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import Architecture, Norms, Scales
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.rope import StatedRope
from megacpt.families.weights import renamed

MODEL_TYPE = "gemma2"
PARAMS = renamed(llama.PARAMS, names={"pre_mlp_layernorm": "pre_feedforward_layernorm"})
NAMES = {"hidden_act": "hidden_activation"}

DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
"""transformers' Gemma2Config, where it differs from LlamaConfig."""


def read(config: HfConfig) -> Architecture:
    architecture = read_gemma(config)
    full = config.full_attention_layers(
        num=architecture.num_layers, default=lambda layer: layer % 2 == 1
    )
    scales = replace(
        architecture.scales,
        attention_cap=config.cap("attn_logit_softcapping", default=50.0),
        logits_cap=config.cap("final_logit_softcapping", default=30.0),
    )
    return replace(architecture, family=MODEL_TYPE, scales=scales, full_attention_layers=full)


def read_gemma(config: HfConfig, *, rope: StatedRope | None = None) -> Architecture:
    """What Gemma 2 and 3 have in common; ``rope``: as for Llama."""
    config.require("use_bidirectional_attention", wanted=False, default=False)
    own = {"hidden_act": "silu", "mlp_bias": False}
    as_llama = HfConfig(path=config.path, values={**DEFAULTS, **config.values, **own})
    architecture = llama.read(as_llama, rope=rope)
    scales = Scales(
        embedding=architecture.hidden_size**0.5,
        embedding_rounded=True,
        attention=config.number("query_pre_attn_scalar", default=256) ** -0.5,
    )
    return replace(
        architecture,
        norms=Norms(plus_one=True, scaled_wide=True, after=True),
        activation=config.activation("hidden_activation", default="gelu_pytorch_tanh"),
        scales=scales,
        sliding_window=config.local_window(default=4096),
    )
