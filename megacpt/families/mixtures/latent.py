# SPDX-License-Identifier: Apache-2.0
"""The rows and sizes of DeepSeek's latent attention, which V2 and V3 share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import compress

from megacpt.families.architecture import Architecture, Latent
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import Param, linear, norm

_NATIVE = "decoder.layers.{layer}.self_attention"
_HF = "model.layers.{layer}.self_attn"
_KINDS = ("default", "dynamic", "linear", "llama3")
"""Of rope, beside yarn."""


def read(config: HfConfig) -> Architecture:
    """Of a DeepSeek, all but its experts. Some defaults are the family's."""
    rotated = config.integer("qk_rope_head_dim", default=64)
    heads = config.integer("num_attention_heads")
    latent = Latent(
        query_rank=_query_rank(config),
        kv_rank=config.integer("kv_lora_rank", default=512),
        plain_dim=config.integer("qk_nope_head_dim", default=128),
        value_dim=config.integer("v_head_dim", default=128),
    )
    config.require("num_key_value_heads", wanted=heads, default=heads)
    ffn = {"intermediate_size": config.integer("moe_intermediate_size")}
    values = {**config.values, **ffn, "head_dim": rotated}
    as_llama = HfConfig(path=config.path, values=values)
    architecture = llama.read(as_llama)
    attention = _stretched(as_llama) / math.sqrt(latent.plain_dim + rotated)
    scales = replace(architecture.scales, attention=attention)
    return replace(architecture, latent=latent, scales=scales, rotary_pairs=True)


def _query_rank(config: HfConfig) -> int | None:
    stated = config.values.get("q_lora_rank", 1536)
    return None if stated is None else config.integer("q_lora_rank", default=1536)


def _stretched(config: HfConfig) -> float:
    """What stretched positions make of queries times keys."""
    rope = config.rope()
    known = HfConfig(path=config.path, values={"rope_type": rope.kind})
    known.require("rope_type", wanted="yarn", default="yarn", also=_KINDS)
    stated = HfConfig(path=config.path, values=rope.stated)
    power = stated.number("mscale_all_dim", default=0.0)
    if rope.kind == "default" or power == 0.0:
        return 1.0
    factor = stated.number("factor")
    return 1.0 if factor <= 1 else (0.1 * power * math.log(factor) + 1.0) ** 2


def _has_query_rank(architecture: Architecture) -> bool:
    return architecture.latent is not None and architecture.latent.query_rank is not None


def _rows(
    native: str,
    *,
    source: str,
    sizes: tuple[str, str],
    tp_dim: int | None,
    present: Callable[[Architecture], bool] = lambda _: True,
    bias: Callable[[Architecture], bool] = lambda _: False,
) -> tuple[Param, Param]:
    sources = ((f"{_HF}.{source}", *sizes),)
    weight, bias_row = linear(f"{_NATIVE}.{native}", sources=sources, tp_dim=tp_dim, bias=bias)
    return (
        replace(weight, present=present),
        replace(bias_row, present=lambda a: present(a) and bias(a)),
    )


def _norm(
    native: str, *, source: str, size: str, present: Callable[[Architecture], bool]
) -> tuple[Param, Param]:
    return norm(f"{_NATIVE}.{native}", source=f"{_HF}.{source}", size=size, present=present)


def _stated_bias(architecture: Architecture) -> bool:
    return architecture.attention_bias


_ATTENTION: tuple[Param, ...] = (
    *_rows(
        "linear_q_proj",
        source="q_proj",
        sizes=("latent_q", "hidden"),
        tp_dim=0,
        present=lambda a: not _has_query_rank(a),
    ),
    *_rows(
        "linear_q_down_proj",
        source="q_a_proj",
        sizes=("q_rank", "hidden"),
        tp_dim=None,
        present=_has_query_rank,
        bias=_stated_bias,
    ),
    *_norm("q_layernorm", source="q_a_layernorm", size="q_rank", present=_has_query_rank),
    *_rows(
        "linear_q_up_proj",
        source="q_b_proj",
        sizes=("latent_q", "q_rank"),
        tp_dim=0,
        present=_has_query_rank,
    ),
    *_rows(
        "linear_kv_down_proj",
        source="kv_a_proj_with_mqa",
        sizes=("kv_rank_and_rotated", "hidden"),
        tp_dim=None,
        bias=_stated_bias,
    ),
    *_norm("kv_layernorm", source="kv_a_layernorm", size="kv_rank", present=lambda _: True),
    *_rows("linear_kv_up_proj", source="kv_b_proj", sizes=("latent_kv", "kv_rank"), tp_dim=0),
    *_rows(
        "linear_proj", source="o_proj", sizes=("hidden", "latent_out"), tp_dim=1, bias=_stated_bias
    ),
)
"""In the order of the layer."""


def _around_attention() -> tuple[Param, ...]:
    """Llama's rows before the MLP, latent attention in place of its own."""
    is_other = [".self_attention." not in row.native for row in llama.BEFORE_MLP]
    first = is_other.index(False)
    after = compress(llama.BEFORE_MLP[first:], is_other[first:])
    return (*llama.BEFORE_MLP[:first], *_ATTENTION, *after)


BEFORE_MLP = _around_attention()
