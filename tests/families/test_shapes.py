# SPDX-License-Identifier: Apache-2.0
"""Families of another shape than Llama's: their config.json in both forms, as transformers reads
it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.counts import num_parameters
from megacpt.families.rope import Rope
from tests.family_cases.norms import CASES
from tests.support import LLAMA

FAMILIES = ("cohere", "cohere2", "gemma2", "gemma3_text", "olmo2", "olmo3", "starcoder2")
EPSILON = {"starcoder2": "norm_epsilon", "cohere": "layer_norm_eps", "cohere2": "layer_norm_eps"}
FULL, LOCAL = "full_attention", "sliding_attention"
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def read(folder: Path, **config: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return read_architecture(folder)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    sizes = ("intermediate_size", "num_hidden_layers", "vocab_size")
    small = {k: LLAMA[k] for k in sizes} | {"hidden_size": 4096, "num_attention_heads": 32}
    a = read(tmp_path, model_type=model_type, **small)
    b = AutoConfig.for_model(model_type, **small)
    known = vars(b)
    assert (a.num_kv_heads, a.head_dim) == (b.num_key_value_heads, known.get("head_dim") or 128)
    assert a.norm_eps == getattr(b, EPSILON.get(model_type, "rms_norm_eps"))
    assert (a.max_positions, a.tied_embeddings) == (
        b.max_position_embeddings,
        b.tie_word_embeddings,
    )
    assert a.activation == known.get("hidden_activation", known.get("hidden_act"))
    assert a.initializer_range == b.initializer_range
    assert a.attention_bias is known.get("use_bias", known.get("attention_bias"))
    assert (a.bos_id, a.eos_id, a.pad_id) == (b.bos_token_id, b.eos_token_id, b.pad_token_id)
    assert a.scales.logits == known.get("logit_scale", 1.0)
    assert a.scales.logits_cap == known.get("final_logit_softcapping")
    assert a.scales.attention_cap == known.get("attn_logit_softcapping")
    if "query_pre_attn_scalar" in known:
        assert a.scales.attention == b.query_pre_attn_scalar**-0.5
    assert_same_layers(a, b)


def assert_same_layers(a: Architecture, b: Any) -> None:
    """Windows and rotations."""
    types = getattr(b, "layer_types", None) or [FULL] * a.num_layers
    window = getattr(b, "sliding_window", None)
    layers = range(a.num_layers)
    assert [a.window(n) for n in layers] == [window if t == LOCAL else None for t in types]
    nested = FULL in b.rope_parameters
    for layer, kind in enumerate(types):
        if a.family == "cohere2" and kind == FULL:
            assert a.rope_of(layer) is None
            continue
        stated = b.rope_parameters[kind] if nested else b.rope_parameters
        rope = a.rope_of(layer)
        assert isinstance(rope, Rope)
        assert rope.theta == stated["rope_theta"]
        assert (rope.scaling is None) is (stated["rope_type"] == "default")


@pytest.mark.parametrize(
    ("model_type", "stated"),
    [
        (
            "gemma3_text",
            {
                "rope_theta": 2e5,
                "rope_local_base_freq": 77.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window": 8,
                "sliding_window_pattern": 3,
            },
        ),
        ("gemma3_text", {"rope_scaling": None, "layer_types": [FULL, LOCAL, FULL, FULL]}),
        ("olmo3", {"rope_theta": 500000.0, "rope_scaling": YARN, "sliding_window": 8}),
        ("cohere2", {"rope_theta": 5e4, "sliding_window_pattern": 2, "sliding_window": 8}),
        ("gemma2", {"rope_theta": 5e4, "sliding_window": 8}),
        ("starcoder2", {"rope_theta": 5e4, "use_bias": False}),
    ],
)
def test_the_form_of_transformers_4(
    model_type: str, stated: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    config = {k: v for k, v in LLAMA.items() if "rope" not in k} | {"model_type": model_type}
    b = AutoConfig.for_model(**json.loads(json.dumps(config | stated)))
    assert_same_layers(read(tmp_path, **config | stated), b)


def test_one_theta_of_olmo3_is_that_of_all_layers(tmp_path: Path) -> None:
    """As transformers 4 reads it, which knew no other; 5 gives layers with a window its default."""
    stated = LLAMA | {"model_type": "olmo3", "rope_theta": 1e5, "rope_scaling": YARN}
    a = read(tmp_path, **stated)
    assert a.local_rope == Rope(theta=1e5, scaling=None)
    assert a.rope.theta == 1e5
    assert a.rope.scaling is not None


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_counted_as_transformers_does(case: str, tmp_path: Path) -> None:
    model = CASES[case].write(tmp_path)
    assert num_parameters(read_architecture(tmp_path)) == model.num_parameters()


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping must be above 0"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_activation must be one of silu, gelu,"),
        ("gemma2", {"sliding_window": None}, "has no sliding_window, which this family needs"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping must be None"),
        ("gemma3_text", {"layer_types": [FULL] * 3}, "layer_types must be a list of 4 of"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm must be False, but is True"),
        ("cohere2", {"head_dim": 8}, "head_dim must be 16, but is 8"),
        ("starcoder2", {"use_bias": 1}, "use_bias must be true or false, but is 1"),
        ("olmo2", {"hidden_act": "relu2"}, "hidden_act must be one of silu"),
    ],
)
def test_what_is_not_computed_is_refused(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, **LLAMA | {"model_type": model_type} | changes)
