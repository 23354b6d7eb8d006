# SPDX-License-Identifier: Apache-2.0
"""Families with gated delta nets and experts: their config.json as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture, DeltaNet, Experts
from megacpt.families.counts import num_active_parameters, num_parameters
from tests.family_cases.delta_mixtures import CASES
from tests.support import LLAMA

FAMILIES = ("qwen3_next", "qwen3_5_moe_text")
SIZES = {key: LLAMA[key] for key in ("vocab_size", "num_hidden_layers", "initializer_range")}


def read(folder: Path, **config: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return read_architecture(folder)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    small = SIZES | {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 8}
    a = read(tmp_path, model_type=model_type, **small)
    b = AutoConfig.for_model(model_type, **small)
    assert a.experts == Experts(
        num=b.num_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
        renormalised=getattr(b, "norm_topk_prob", True),
        shared_ffn_hidden_size=b.shared_expert_intermediate_size,
        shared_gate=True,
    )
    assert a.delta_net == DeltaNet(
        layers=tuple(n for n, kind in enumerate(b.layer_types) if kind == "linear_attention"),
        key_heads=b.linear_num_key_heads,
        value_heads=b.linear_num_value_heads,
        key_dim=b.linear_key_head_dim,
        value_dim=b.linear_value_head_dim,
        kernel=b.linear_conv_kernel_dim,
    )
    assert a.ffn_hidden_size == b.moe_intermediate_size
    assert (a.num_kv_heads, a.head_dim) == (b.num_key_value_heads, b.head_dim)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert a.tied_embeddings is b.tie_word_embeddings
    rope = b.rope_parameters
    assert (a.rope_theta, a.rotary_share) == (rope["rope_theta"], rope["partial_rotary_factor"])
    assert (a.bos_id, a.eos_id, a.pad_id) == (b.bos_token_id, b.eos_token_id, b.pad_token_id)


@pytest.mark.parametrize(
    "stated",
    [{}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [0, 3]}, {"mlp_only_layers": None}],
    ids=str,
)
def test_dense_layers_of_qwen3_next_have_the_size_it_states(
    stated: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    a = read(tmp_path, **LLAMA | {"model_type": "qwen3_next"} | stated)
    b = AutoConfig.for_model(**LLAMA | {"model_type": "qwen3_next"} | stated)
    dense = [n in b.mlp_only_layers or (n + 1) % b.decoder_sparse_step != 0 for n in range(4)]
    assert [not a.has_experts(n) for n in range(4)] == dense
    assert a.ffn_hidden_size == b.moe_intermediate_size
    assert a.dense_ffn_hidden_size == (b.intermediate_size if any(dense) else a.ffn_hidden_size)


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_counted_as_transformers_does(case: str, tmp_path: Path) -> None:
    model = CASES[case].write(tmp_path)
    a = read_architecture(tmp_path)
    assert num_parameters(a) == model.num_parameters()
    idle = a.experts.num - a.experts.per_token
    experts = sum(a.has_experts(layer) for layer in range(a.num_layers))
    of_one = 3 * a.hidden_size * a.ffn_hidden_size
    assert num_active_parameters(a) == num_parameters(a) - experts * idle * of_one


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("qwen3_5_moe_text", {"norm_topk_prob": False}, "norm_topk_prob must be True, but is F"),
        ("qwen3_5_moe_text", {"mlp_only_layers": [1]}, r"mlp_only_layers must be \[\], but is \[1"),
        ("qwen3_5_moe_text", {"decoder_sparse_step": 2}, "decoder_sparse_step must be 1, but is 2"),
        ("qwen3_next", {"decoder_sparse_step": 5}, "leaves none of 4 layers with experts"),
        ("qwen3_next", {"attention_bias": True}, "attention_bias must be False, but is True"),
        ("qwen3_next", {"hidden_act": "gelu"}, "hidden_act must be 'silu', but is 'gelu'"),
        ("qwen3_next", {"num_experts_per_tok": 1}, "num_experts_per_tok must be from 2 to 512"),
        ("qwen3_next", {"linear_num_key_heads": 5}, "linear_num_key_heads must divide 32"),
        ("qwen3_next", {"layer_types": ["full_attention"] * 3}, "layer_types must be a list of 4"),
    ],
)
def test_what_is_not_computed_is_refused(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, **LLAMA | {"model_type": model_type} | changes)
