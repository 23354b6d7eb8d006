# SPDX-License-Identifier: Apache-2.0
"""Llama: RMSNorm, rotary positions, grouped queries, gated SiLU MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.rope import StatedRope
from megacpt.families.weights import Grouping, Param, Role, linear, norm, vocabulary

MODEL_TYPE = "llama"
_Present = Callable[[Architecture], bool]

_NATIVE = "decoder.layers.{layer}"
_HF = "model.layers.{layer}"


def read(config: HfConfig, *, rope: StatedRope | None = None) -> Architecture:
    """Defaults are those of transformers' LlamaConfig; ``rope``: where it is not to be read as
    Llama's."""
    config.require("hidden_act", wanted="silu", default="silu", also=("swish",))
    found = (rope or config.rope()).rope
    heads = config.integer("num_attention_heads")
    return Architecture(
        family=MODEL_TYPE,
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=config.integer("hidden_size"),
        ffn_hidden_size=config.integer("intermediate_size"),
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", default=heads),
        head_dim=config.head_dim(),
        vocab_size=config.integer("vocab_size"),
        max_positions=config.integer("max_position_embeddings", default=2048),
        norm_eps=config.number("rms_norm_eps", default=1e-6),
        tied_embeddings=config.flag("tie_word_embeddings"),
        attention_bias=config.flag("attention_bias"),
        mlp_bias=config.flag("mlp_bias"),
        rope_theta=found.theta,
        rope_scaling=found.scaling,
        rotary_share=found.share,
        initializer_range=config.number("initializer_range", default=0.02),
        bos_id=config.token_id("bos_token_id"),
        eos_id=config.token_id("eos_token_id"),
        pad_id=config.token_id("pad_token_id"),
    )


def _attention(
    path: str,
    *parts: tuple[str, str, str],
    tp_dim: int,
    bias: Callable[[Architecture], bool],
    grouping: Grouping = Grouping.once,
) -> tuple[Param, Param]:
    sources = tuple((f"{_HF}.self_attn.{name}", out, into) for name, out, into in parts)
    native = f"{_NATIVE}.self_attention.{path}"
    return linear(native, sources=sources, tp_dim=tp_dim, bias=bias, grouping=grouping)


def _mlp(
    path: str, *parts: tuple[str, str, str], tp_dim: int, present: _Present
) -> tuple[Param, Param]:
    sources = tuple((f"{_HF}.mlp.{name}", out, into) for name, out, into in parts)
    weight, bias = linear(
        f"{_NATIVE}.mlp.{path}", sources=sources, tp_dim=tp_dim, bias=lambda a: a.mlp_bias
    )
    return replace(weight, present=present), replace(
        bias, present=_both(bias.present, second=present)
    )


def _both(first: _Present, *, second: _Present) -> _Present:
    return lambda a: first(a) and second(a)


def _norm(
    native: str, *, source: str, engine: str | None, present: _Present
) -> tuple[Param, Param]:
    name = engine and f"{_NATIVE}.{engine}.layer_norm"
    return norm(f"{_NATIVE}.{native}", source=f"{_HF}.{source}", engine=name, present=present)


def _qk_norms(native: str, *, source: str, size: str) -> tuple[Param, ...]:
    """Of each head, or of all of them."""
    name, hf_name = f"{_NATIVE}.self_attention.{native}", f"{_HF}.self_attn.{source}"
    return (
        *norm(name, source=hf_name, size="head", present=lambda a: a.qk_norm),
        *norm(name, source=hf_name, size=size, tp_dim=0, present=lambda a: a.qk_norm_over_heads),
    )


_Q, _K, _V = ("q_proj", "q", "hidden"), ("k_proj", "kv", "hidden"), ("v_proj", "kv", "hidden")
_GATE, _UP = ("gate_proj", "ffn", "hidden"), ("up_proj", "ffn", "hidden")
BEFORE_MLP: tuple[Param, ...] = (
    vocabulary(
        "embedding.word_embeddings.weight",
        source="model.embed_tokens.weight",
        role=Role.embedding,
    ),
    *_norm(
        "input_layernorm",
        source="input_layernorm",
        engine="self_attention.linear_qkv",
        present=lambda a: a.norms.before,
    ),
    *_attention(
        "linear_qkv",
        *(_Q, _K, _V),
        tp_dim=0,
        bias=lambda a: a.attention_bias or a.qkv_bias,
        grouping=Grouping.by_kv_head,
    ),
    *_qk_norms("q_layernorm", source="q_norm", size="q"),
    *_qk_norms("k_layernorm", source="k_norm", size="kv"),
    *_attention(
        "linear_proj", ("o_proj", "hidden", "q"), tp_dim=1, bias=lambda a: a.attention_bias
    ),
    *_norm(
        "post_self_attn_layernorm",
        source="post_attention_layernorm",
        engine=None,
        present=lambda a: a.norms.after,
    ),
    *_norm(
        "pre_mlp_layernorm",
        source="post_attention_layernorm",
        engine="mlp.linear_fc1",
        present=lambda a: a.norms.before and not a.parallel_mlp,
    ),
    *_norm(
        "post_mlp_layernorm",
        source="post_feedforward_layernorm",
        engine=None,
        present=lambda a: a.norms.after,
    ),
)
MLP: tuple[Param, ...] = (
    *_mlp("linear_fc1", _GATE, _UP, tp_dim=0, present=lambda a: a.gated),
    *_mlp("linear_fc1", _UP, tp_dim=0, present=lambda a: not a.gated),
    *_mlp("linear_fc2", ("down_proj", "hidden", "ffn"), tp_dim=1, present=lambda _: True),
)
AFTER_LAYERS: tuple[Param, ...] = (
    *norm("decoder.final_layernorm", source="model.norm"),
    vocabulary(
        "output_layer.weight",
        source="lm_head.weight",
        role=Role.head,
        present=lambda a: not a.tied_embeddings,
    ),
)
PARAMS = BEFORE_MLP + MLP + AFTER_LAYERS
