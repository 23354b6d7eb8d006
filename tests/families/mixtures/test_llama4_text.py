# SPDX-License-Identifier: Apache-2.0
"""Llama 4 as config.json states it: layers, chunks and growth as transformers has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import Dtype
from megacpt.convert.described import model_config
from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture, Experts, QueryGrowth, Routing
from megacpt.families.counts import training_flops_per_token
from megacpt.families.hf_config import HfConfig

SMALL: dict[str, Any] = {
    "model_type": "llama4_text",
    "num_hidden_layers": 8,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 16,
    "vocab_size": 257,
}
FULL, CHUNKED = "full_attention", "chunked_attention"


def read(folder: Path, **changes: Any) -> Architecture:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | changes))
    return read_architecture(folder)


def assert_same(a: Architecture, b: Any) -> None:
    layers = range(b.num_hidden_layers)
    chunks = [b.attention_chunk_size if kind == CHUNKED else None for kind in b.layer_types]
    assert [a.chunk(n) for n in layers] == chunks
    assert [a.rope_of(n) is not None for n in layers] == [bool(x) for x in b.no_rope_layers]
    assert [a.has_experts(n) for n in layers] == [n in b.moe_layers for n in layers]
    grows = b.attn_temperature_tuning
    for n in layers:
        assert (a.growth_of(n) is not None) == (grows and a.rope_of(n) is None)


def test_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import Llama4TextConfig

    a, b = read(tmp_path), Llama4TextConfig(**SMALL)
    assert (a.num_kv_heads, a.head_dim) == (b.num_key_value_heads, b.head_dim)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert (a.rope_theta, a.rope_scaling) == (b.rope_parameters["rope_theta"], None)
    assert (a.tied_embeddings, a.attention_bias) == (b.tie_word_embeddings, b.attention_bias)
    assert (a.rotated_qk_norm, a.ffn_hidden_size) == (b.use_qk_norm, b.intermediate_size)
    assert a.experts == Experts(
        num=b.num_local_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
        renormalised=False,
        routing=Routing(sigmoid=True),
        shared_ffn_hidden_size=b.intermediate_size,
        on_input=True,
    )
    assert a.query_growth == QueryGrowth(
        rate=b.attn_scale, original_max_positions=b.floor_scale, first=1, unrotated=True
    )
    assert_same(a, b)
    dense = read(tmp_path, interleave_moe_layer_step=2)
    assert dense.dense_ffn_hidden_size == b.intermediate_size_mlp


@pytest.mark.parametrize(
    "changes",
    [
        {"no_rope_layers": [], "moe_layers": None},
        {"no_rope_layers": [0, 1, 1, 0, 1, 1, 1, 1]},
        {"no_rope_layer_interval": 3, "interleave_moe_layer_step": 2},
        {"moe_layers": [6, 1], "attention_chunk_size": 16},
        {"layer_types": [FULL, CHUNKED] * 4, "attn_temperature_tuning": False},
    ],
    ids=str,
)
def test_layers_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import Llama4TextConfig

    a, b = read(tmp_path, **changes), Llama4TextConfig(**SMALL | changes)
    assert_same(a, b)


@pytest.mark.parametrize(("stated", "grows"), [(4, True), (0, False), (None, True)])
def test_the_number_that_stood_for_growth_is_a_flag_in_the_export(
    stated: int | None, grows: bool, tmp_path: Path
) -> None:
    """transformers 4.51 wrote it so, and 5 takes none."""
    from transformers import AutoConfig

    a = read(tmp_path, attn_temperature_tuning=stated)
    assert (a.query_growth is not None) is grows
    if grows:
        out = tmp_path / "out"
        out.mkdir()
        written = model_config(HfConfig.read(tmp_path), architecture=a, dtype=Dtype.fp32)
        (out / "config.json").write_text(json.dumps(written))
        assert read_architecture(out) == a
        assert AutoConfig.from_pretrained(out).attn_temperature_tuning is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_chunk_size": None}, "has no attention_chunk_size, which this family needs"),
        ({"attention_chunk_size": 0}, "attention_chunk_size must be a positive integer"),
        ({"layer_types": ["sliding_attention"] * 8}, "layer_types must be a list of 8 of chunked"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers must be a list of 8 times 0 or 1"),
        ({"moe_layers": []}, "leaves none of 8 layers with experts"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok must be from 1 to 16, but is 17"),
        ({"attn_temperature_tuning": "yes"}, "attn_temperature_tuning must be true or false"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
    ],
)
def test_what_is_not_computed_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, **changes)


def test_chunks_make_attention_cheaper(tmp_path: Path) -> None:
    """By what each token sees, counted one by one, twice, as if half of a square."""
    a = read(tmp_path, attention_chunk_size=16)

    def seen(length: int, *, chunk: int) -> float:
        return sum(n % chunk + 0.5 for n in range(length)) / length

    plain = read(tmp_path / "plain", attention_chunk_size=1000)
    difference = training_flops_per_token(plain, sequence_length=40) - training_flops_per_token(
        a, sequence_length=40
    )
    keys = 6 * 2 * (seen(40, chunk=1000) - seen(40, chunk=16))
    assert difference == pytest.approx(6 * a.num_heads * a.head_dim * keys)
