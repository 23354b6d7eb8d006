# SPDX-License-Identifier: Apache-2.0
"""Mixtures as config.json states them: defaults, counts and layers as transformers has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import param_rows, read_architecture
from megacpt.families.architecture import Experts
from megacpt.families.counts import (
    num_active_parameters,
    num_parameters,
)
from megacpt.families.rope import YarnRopeScaling
from tests.family_cases import deepseek, glm, gpt_oss, llama4, routed, stacked

SMALL = {
    "num_hidden_layers": 5,
    "hidden_size": 64,
    "num_attention_heads": 16,
    "vocab_size": 257,
}


def folder_with(tmp_path: Path, config: object) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_defaults_of_qwen2_moe_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import Qwen2MoeConfig

    a = read_architecture(folder_with(tmp_path, SMALL | {"model_type": "qwen2_moe"}))
    b = Qwen2MoeConfig(**SMALL)
    assert a.experts == Experts(
        num=b.num_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
        renormalised=b.norm_topk_prob,
        shared_ffn_hidden_size=b.shared_expert_intermediate_size,
        shared_gate=True,
    )
    assert (a.ffn_hidden_size, a.num_kv_heads) == (b.moe_intermediate_size, b.num_key_value_heads)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert (a.rope_theta, a.qkv_bias) == (b.rope_parameters["rope_theta"], b.qkv_bias)


@pytest.mark.parametrize("model_type", ["olmoe", "granitemoe"])
def test_defaults_of_olmoe_and_granitemoe_are_those_of_transformers(
    model_type: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    sizes = SMALL | {"intermediate_size": 96} if model_type == "granitemoe" else SMALL
    a = read_architecture(folder_with(tmp_path, sizes | {"model_type": model_type}))
    b = AutoConfig.for_model(model_type, **sizes)
    assert a.experts == Experts(
        num=b.num_local_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
        renormalised=getattr(b, "norm_topk_prob", True),
    )
    assert (a.ffn_hidden_size, a.num_kv_heads) == (b.intermediate_size, b.num_key_value_heads)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert a.rope_theta == b.rope_parameters["rope_theta"]
    assert a.scales.attention == getattr(b, "attention_multiplier", None)


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({"mlp_only_layers": [3, 1, 9]}, (1, 3)),
        ({"decoder_sparse_step": 2}, (0, 2, 4)),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, (0, 1, 2, 4)),
        ({"mlp_only_layers": None}, ()),
    ],
)
@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe"])
def test_layers_without_experts(
    model_type: str, changes: dict[str, Any], dense: tuple[int, ...], tmp_path: Path
) -> None:
    config = SMALL | {"model_type": model_type, "intermediate_size": 99} | changes
    experts = read_architecture(folder_with(tmp_path, config)).experts
    assert experts is not None
    assert experts.dense_layers == dense
    assert experts.dense_ffn_hidden_size == (99 if dense else None)


GROUPS = (routed, deepseek, glm, gpt_oss, llama4, stacked)
CASES = {name: case for group in GROUPS for name, case in group.CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    """A token passes all but the experts it is not sent to."""
    model = CASES[case].write(tmp_path)
    a = read_architecture(tmp_path)
    assert a.experts is not None
    weights = {**dict(model.named_parameters()), **corrections(model)}
    of_experts = sum(w.numel() for n, w in weights.items() if ".experts." in n)
    assert num_parameters(a) == sum(weight.numel() for weight in weights.values())
    assert sum(r.num_values(a) for r in param_rows(a) if r.per_expert) == of_experts
    idle = of_experts // a.experts.num * (a.experts.num - a.experts.per_token)
    assert num_active_parameters(a) == num_parameters(a) - idle


def corrections(model: Any) -> dict[str, Any]:
    """transformers has these as buffers."""
    return {n: b for n, b in model.named_buffers() if n.endswith("correction_bias")}


DEEPSEEK = SMALL | {"num_experts_per_tok": 2, "n_routed_experts": 16}


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("deepseek_v2", {"num_experts_per_tok": None}, "has no num_experts_per_tok"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob must be False, but is True"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method must be 'greedy'"),
        ("deepseek_v2", {"mlp_bias": True}, "mlp_bias must be False, but is True"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads must be 16, but is 2"),
        ("deepseek_v3", {"n_group": 3, "topk_group": 1}, "n_group must divide 16, but is 3"),
        ("deepseek_v3", {"n_group": 16}, "n_group must be from 1 to 8, but is 16"),
        ("deepseek_v3", {"topk_group": 9}, "topk_group must be from 1 to 8, but is 9"),
        (
            "deepseek_v3",
            {"topk_group": 1, "num_experts_per_tok": 3},
            "num_experts_per_tok must be from 2 to 2, but is 3",
        ),
        ("deepseek_v3", {"first_k_dense_replace": 5}, "leaves none of 5 layers with experts"),
        ("glm4_moe", {"first_k_dense_replace": 9}, "leaves none of 5 layers with experts"),
        ("qwen2_moe", {"use_sliding_window": True}, "use_sliding_window must be False"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv must be None, but is 8.0"),
    ],
)
def test_what_is_not_computed_is_refused(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = DEEPSEEK | {"model_type": model_type} | changes
    with pytest.raises(ModelError, match=message):
        read_architecture(folder_with(tmp_path, config))


def test_deepseeks_attention_is_as_large_as_in_transformers(tmp_path: Path) -> None:
    """Compared: a head's query and key; summed: its values."""
    from transformers import DeepseekV3Config

    a = read_architecture(folder_with(tmp_path, DEEPSEEK | {"model_type": "deepseek_v3"}))
    b = DeepseekV3Config(**DEEPSEEK)
    assert a.attention_size == b.num_attention_heads * (b.qk_head_dim + b.v_head_dim) / 2
    assert a.experts is not None
    assert a.experts.routing.scale == b.routed_scaling_factor
    assert a.experts.dense_layers == tuple(range(b.first_k_dense_replace))
    assert (a.head_dim, a.dense_ffn_hidden_size) == (b.qk_rope_head_dim, b.intermediate_size)
    assert (a.max_positions, a.norm_eps) == (b.max_position_embeddings, b.rms_norm_eps)


GPT_OSS = SMALL | {"model_type": "gpt_oss", "num_hidden_layers": 4, "intermediate_size": 96}
PUBLISHED = GPT_OSS | {
    "experts_per_token": 4,
    "initial_context_length": 4096,
    "num_experts_per_tok": 4,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
}
"""In the words of the published folders, which are those of transformers 4."""


@pytest.mark.parametrize("config", [GPT_OSS, PUBLISHED])
def test_defaults_of_gpt_oss_are_those_of_transformers(
    config: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import GptOssConfig

    a = read_architecture(folder_with(tmp_path, config))
    b = GptOssConfig.from_pretrained(tmp_path)
    assert a.experts == Experts(
        num=b.num_local_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
    )
    assert a.bounded_glu is not None
    assert (a.bounded_glu.slope, a.bounded_glu.limit) == (b.swiglu_alpha, b.swiglu_limit)
    assert (a.ffn_hidden_size, a.num_kv_heads) == (b.intermediate_size, b.num_key_value_heads)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert (a.head_dim, a.attention_bias) == (b.head_dim, b.attention_bias)
    kinds = ["full_attention" if a.window(n) is None else "sliding_attention" for n in range(4)]
    assert (kinds, a.window(0)) == (b.layer_types[:4], b.sliding_window)
    rope, stated = a.rope_scaling, b.rope_parameters
    assert isinstance(rope, YarnRopeScaling)
    assert (a.rope_theta, rope.truncate) == (stated["rope_theta"], stated["truncate"])
    assert (rope.factor, rope.original_max_positions) == (
        stated["factor"],
        stated["original_max_position_embeddings"],
    )
