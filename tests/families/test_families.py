# SPDX-License-Identifier: Apache-2.0
"""config.json, in the forms transformers 4 and 5 write it, as an Architecture; bad ones refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.architecture import Experts
from megacpt.families.counts import num_parameters
from megacpt.families.hf_config import end_ids
from megacpt.families.rope import Llama3RopeScaling
from tests.llama_cases import CASES, LLAMA3_ROPE, write_llama
from tests.mixtral_cases import CASES as MIXTRAL_CASES
from tests.mixtral_cases import write_mixtral
from tests.qwen_cases import CASES as QWEN_CASES
from tests.qwen_cases import write_qwen
from tests.support import LLAMA

KNOWN = ", ".join(sorted(FAMILIES))
SCALING = Llama3RopeScaling(
    factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64
)


def folder_with(tmp_path: Path, config: object) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_every_field_of_a_plain_config(tmp_path: Path) -> None:
    a = read_architecture(folder_with(tmp_path, LLAMA | {"pad_token_id": -1}))
    assert (a.family, a.num_layers, a.hidden_size, a.ffn_hidden_size) == ("llama", 4, 64, 96)
    assert (a.num_heads, a.num_kv_heads, a.head_dim, a.vocab_size) == (4, 2, 16, 257)
    assert (a.max_positions, a.norm_eps, a.rope_theta) == (256, 1e-5, 10000.0)
    assert (a.tied_embeddings, a.attention_bias, a.mlp_bias) == (False, False, False)
    assert (a.rope_scaling, a.initializer_range) == (None, 0.05)
    assert (a.bos_id, a.eos_id, a.pad_id) == (256, 256, None)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3_ROPE, "type": "llama3"}},
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5}},
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5}, "rope_theta": None},
    ],
    ids=["transformers-4", "older-type-key", "transformers-5", "null-beside"],
)
def test_rope_in_both_forms(tmp_path: Path, rope: dict[str, Any]) -> None:
    architecture = read_architecture(folder_with(tmp_path, LLAMA | {"rope_theta": None} | rope))
    assert architecture.rope_theta == 5e5
    assert architecture.rope_scaling == SCALING


OTHER_WORDS: list[dict[str, Any]] = [
    {"hidden_act": "swish"},
    {"pretraining_tp": 2},
    {"pretraining_tp": None, "hidden_activation": "gelu"},
    {"rope_scaling": {"type": "linear", "factor": 1.0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 1}},
    {"rope_scaling": {"type": "default"}},
    {"rope_scaling": {}, "rope_parameters": None},
    {"rope_scaling": {"factor": 8.0}},
    {"rope_scaling": {"rope_type": "default", "type": "default", "rope_theta": 10000}},
    {"rope_parameters": {"rope_type": "linear", "factor": 1.0, "rope_theta": 1e4}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 1.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    {"partial_rotary_factor": 1},
    {"rope_theta": 10000, "head_dim": None, "attention_bias": None},
]


@pytest.mark.parametrize("words", OTHER_WORDS, ids=str)
def test_other_words_for_the_same_model(words: dict[str, Any], tmp_path: Path) -> None:
    """transformers computes the same with them, and so they are the same architecture."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = torch.arange(LLAMA["max_position_embeddings"]).remainder(LLAMA["vocab_size"])[None]
    known = {name: value for name, value in words.items() if value is not None}
    logits, found = [], []
    for stated in (LLAMA, LLAMA | words):
        found.append(read_architecture(folder_with(tmp_path, stated)))
        torch.manual_seed(0)
        config = AutoConfig.for_model(**(LLAMA | (known if stated is not LLAMA else {})))
        with torch.no_grad():
            logits.append(AutoModelForCausalLM.from_config(config).eval()(tokens).logits)
    assert torch.allclose(logits[0], logits[1], atol=1e-6)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3_ROPE, "rope_theta": 7e5}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "rope_parameters": {"rope_theta": 7e5}},
        {"rope_scaling": {**LLAMA3_ROPE, "factor": 8}, "rope_parameters": LLAMA3_ROPE},
        {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
    ],
    ids=str,
)
def test_of_two_forms_the_one_counts_that_transformers_takes(
    rope: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    stated = {key: value for key, value in LLAMA.items() if key != "rope_theta"} | rope
    a = read_architecture(folder_with(tmp_path, stated))
    b = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert a.rope_theta == b["rope_theta"]
    assert (a.rope_scaling is not None) == (b["rope_type"] == "llama3")
    assert a.rope_scaling is None or a.rope_scaling.factor == b["factor"]


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "axial", "factor": 2.0}, "rope_type must be one of .*, but is 'axial'"),
        ({"type": "linear"}, "has no factor, which this family needs"),
        ({"type": "yarn", "factor": "4"}, "factor must be a number, but is '4'"),
        ({"rope_type": "longrope", "factor": 1.0}, "has no short_factor"),
        (
            {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
            "the length of short_factor must be 8, but is 1",
        ),
        ({"full_attention": LLAMA3_ROPE}, "rope_parameters must be those of one rope, but is"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0, but is 0.5"),
    ],
)
def test_scaling_that_is_not_computed_is_refused(
    scaling: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read_architecture(folder_with(tmp_path, LLAMA | {"rope_scaling": scaling}))


def test_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    small = {k: LLAMA[k] for k in (*sizes, "vocab_size", "model_type")}
    a, b = read_architecture(folder_with(tmp_path, small)), LlamaConfig(**small)
    assert a.num_kv_heads == b.num_key_value_heads
    assert a.head_dim == b.head_dim
    assert a.norm_eps == b.rms_norm_eps
    assert a.max_positions == b.max_position_embeddings
    assert a.initializer_range == b.initializer_range
    assert a.tied_embeddings == b.tie_word_embeddings
    assert a.rope_theta == b.rope_parameters["rope_theta"]


@pytest.mark.parametrize("case", CASES)
def test_parameter_count_equals_transformers(case: str, tmp_path: Path) -> None:
    model = write_llama(tmp_path, **CASES[case])
    assert num_parameters(read_architecture(tmp_path)) == model.num_parameters()


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": [10, 256]}, None, (10, 256)),
        ({"eos_token_id": 10}, {"eos_token_id": [256, 10]}, (10, 256)),
        ({"eos_token_id": None}, {"eos_token_id": 5}, (5,)),
        ({"eos_token_id": -1}, {"temperature": 0.6}, ()),
    ],
)
def test_every_end_counts(
    config: dict[str, Any], generation: dict[str, Any] | None, ends: tuple[int, ...], tmp_path: Path
) -> None:
    folder_with(tmp_path, LLAMA | config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert end_ids(tmp_path) == ends


def test_the_first_of_several_end_tokens_counts(tmp_path: Path) -> None:
    assert read_architecture(folder_with(tmp_path, LLAMA | {"eos_token_id": [7, 8]})).eos_id == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt_neox"},
            f"model_type must be one of {KNOWN}, but is 'gpt_neox'",
        ),
        (
            {"model_type": None},
            f"model_type must be one of {KNOWN}, but is None",
        ),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', but is 'gelu'"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, but is '64'"),
        ({"hidden_size": 66}, "hidden_size must be a multiple of 4 heads, but is 66"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number, but is 'small'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, but is 1"),
        (
            {"rope_scaling": {"rope_type": "axial", "factor": 2.0}},
            "rope_type must be one of default, .*yarn, but is 'axial'",
        ),
        ({"rope_scaling": [1]}, r"rope_parameters must be an object, but is \[1\]"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "has no factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0, but is 0.5"),
    ],
)
def test_what_is_not_supported_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_architecture(folder_with(tmp_path, LLAMA | changes))


MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def test_experts_and_window_of_mixtral(tmp_path: Path) -> None:
    stated = {"router_aux_loss_coef": 0.02, "sliding_window": 128, "attention_bias": True}
    a = read_architecture(folder_with(tmp_path, MIXTRAL | stated))
    assert a.experts == Experts(num=4, per_token=2, balance_coefficient=0.02)
    assert (a.family, a.ffn_hidden_size, a.sliding_window) == ("mixtral", 96, 128)
    # Mixtral has no biases, whatever a config says that other families know.
    assert (a.attention_bias, a.mlp_bias) == (False, False)
    a = read_architecture(folder_with(tmp_path, MIXTRAL | {"sliding_window": None}))
    assert a.sliding_window is None


def test_defaults_of_mixtral_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import MixtralConfig

    sizes = ("intermediate_size", "num_hidden_layers", "vocab_size")
    small = {k: LLAMA[k] for k in sizes} | {"hidden_size": 64, "num_attention_heads": 8}
    a = read_architecture(folder_with(tmp_path, small | {"model_type": "mixtral"}))
    b = MixtralConfig(**small)
    assert a.experts == Experts(
        num=b.num_local_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
    )
    assert a.num_kv_heads == b.num_key_value_heads
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert a.rope_theta == b.rope_parameters["rope_theta"]
    assert a.sliding_window == b.sliding_window


@pytest.mark.parametrize("case", MIXTRAL_CASES)
def test_parameter_count_of_mixtral_equals_transformers(case: str, tmp_path: Path) -> None:
    model = write_mixtral(tmp_path, **MIXTRAL_CASES[case])
    assert num_parameters(read_architecture(tmp_path)) == model.num_parameters()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router_jitter_noise": 0.1}, "router_jitter_noise must be 0.0, but is 0.1"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok must be from 2 to 4, but is 1"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok must be from 2 to 4, but is 5"),
        ({"router_aux_loss_coef": -1}, "router_aux_loss_coef must be from 0 to 1, but is -1"),
        ({"num_local_experts": "8"}, "num_local_experts must be a positive integer, but is '8'"),
        ({"sliding_window": 0}, "sliding_window must be a positive integer, but is 0"),
    ],
)
def test_what_of_mixtral_is_not_supported_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_architecture(folder_with(tmp_path, MIXTRAL | changes))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a Hugging Face model folder"):
        read_architecture(tmp_path)
    with pytest.raises(ModelError, match="is not a Hugging Face model folder"):
        read_architecture(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read as JSON"), ("[]", "must hold a JSON object")]
)
def test_a_broken_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_architecture(tmp_path)


def test_reading_an_architecture_needs_no_torch() -> None:
    code = "import sys, megacpt.families\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("case", QWEN_CASES)
def test_llamas_relatives_in_the_form_of_transformers(case: str, tmp_path: Path) -> None:
    model = write_qwen(tmp_path, **QWEN_CASES[case])
    a = read_architecture(tmp_path)
    assert num_parameters(a) == model.num_parameters()
    assert (a.qkv_bias, a.qk_norm) == (a.family == "qwen2", a.family == "qwen3")
    assert (a.attention_bias, a.mlp_bias, a.sliding_window) == (False, False, None)
    assert a.tied_embeddings is case.endswith("tied")


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "mistral", "smollm3", "granite"])
def test_defaults_of_llamas_relatives_are_those_of_transformers(
    model_type: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    sizes = ("intermediate_size", "num_hidden_layers", "vocab_size")
    small = {k: LLAMA[k] for k in sizes} | {"hidden_size": 4096, "num_attention_heads": 32}
    a = read_architecture(folder_with(tmp_path, small | {"model_type": model_type}))
    b = AutoConfig.for_model(model_type, **small)
    assert (a.num_kv_heads, a.head_dim) == (b.num_key_value_heads, 128)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert a.rope_theta == b.rope_parameters["rope_theta"]
    assert a.tied_embeddings is b.tie_word_embeddings
    # Used by Mistral alone where the config does not say so.
    assert a.sliding_window == (4096 if model_type == "mistral" else None)
    assert a.sliding_window == getattr(b, "sliding_window", None)
    assert (a.bos_id, a.eos_id, a.pad_id) == (b.bos_token_id, b.eos_token_id, b.pad_token_id) or (
        model_type != "smollm3"
    )


@pytest.mark.parametrize(
    ("stated", "without"),
    [
        ({}, (3,)),
        ({"no_rope_layer_interval": 2}, (1, 3)),
        ({"no_rope_layers": [1, 1, 0, 1]}, (2,)),
        ({"no_rope_layers": [0, 1, 1, 1, 0], "no_rope_layer_interval": 2}, (0,)),
        ({"no_rope_layers": [1, 1, 1, 1]}, ()),
    ],
)
def test_layers_of_smollm3_without_positions(
    stated: dict[str, Any], without: tuple[int, ...], tmp_path: Path
) -> None:
    from transformers import SmolLM3Config

    a = read_architecture(folder_with(tmp_path, LLAMA | {"model_type": "smollm3"} | stated))
    assert a.no_rope_layers == without
    b = SmolLM3Config(**(LLAMA | stated))
    assert [layer in without for layer in range(4)] == [not has for has in b.no_rope_layers[:4]]


@pytest.mark.parametrize("layers", [[1, 1, 0], [1, 1, 2, 1], "1101"])
def test_a_list_of_layers_that_is_none(layers: object, tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "smollm3", "no_rope_layers": layers}
    with pytest.raises(ModelError, match="no_rope_layers must be a list of 4 times 0 or 1"):
        read_architecture(folder_with(tmp_path, config))


def test_defaults_of_qwen3_moe_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig

    small = {k: LLAMA[k] for k in ("num_hidden_layers", "vocab_size")}
    small |= {"hidden_size": 4096, "num_attention_heads": 32}
    config = folder_with(tmp_path, small | {"model_type": "qwen3_moe"})
    a, b = read_architecture(config), Qwen3MoeConfig(**small)
    assert a.experts == Experts(
        num=b.num_local_experts,
        per_token=b.num_experts_per_tok,
        balance_coefficient=b.router_aux_loss_coef,
        renormalised=b.norm_topk_prob,
    )
    assert (a.ffn_hidden_size, a.num_kv_heads) == (b.moe_intermediate_size, b.num_key_value_heads)
    assert (a.head_dim, a.qk_norm, a.qkv_bias) == (128, True, False)
    assert (a.norm_eps, a.max_positions) == (b.rms_norm_eps, b.max_position_embeddings)
    assert a.rope_theta == b.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_only_layers": ["0"]}, "mlp_only_layers must be a list of layers' numbers, but is"),
        ({"decoder_sparse_step": 5}, "leaves none of 4 layers with experts"),
    ],
)
def test_what_of_qwen3_moe_is_not_supported_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_architecture(folder_with(tmp_path, LLAMA | {"model_type": "qwen3_moe"} | changes))


TYPES = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
WINDOWS = {"sliding_window": 128, "use_sliding_window": True, "num_hidden_layers": 4}


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize(
    "stated",
    [
        {"use_sliding_window": False},
        {},
        {"sliding_window": None},
        {"max_window_layers": 0},
        {"max_window_layers": 3, "no_rope_layers": [0, 1, 1, 0]},
        {"layer_types": TYPES},
    ],
    ids=str,
)
def test_windows_are_those_of_transformers(
    model_type: str, stated: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    values = {"model_type": model_type} | WINDOWS | stated
    a = read_architecture(folder_with(tmp_path, LLAMA | values))
    b = AutoConfig.for_model(**values)
    window = b.sliding_window if b.use_sliding_window else None
    windows = [window if kind == "sliding_attention" else None for kind in b.layer_types]
    assert [a.window(layer) for layer in range(4)] == windows


def test_windows_of_qwen3_moe_are_in_all_layers(tmp_path: Path) -> None:
    a = read_architecture(
        folder_with(tmp_path, LLAMA | WINDOWS | {"model_type": "qwen3_moe", "max_window_layers": 4})
    )
    assert [a.window(layer) for layer in range(4)] == [128] * 4


@pytest.mark.parametrize("stated", [TYPES[:3], ["chunked_attention"] * 4, "full_attention"])
def test_kinds_of_layers_that_are_not_there_are_refused(stated: object, tmp_path: Path) -> None:
    config = LLAMA | WINDOWS | {"model_type": "qwen3", "layer_types": stated}
    with pytest.raises(ModelError, match="layer_types must be a list of 4 of "):
        read_architecture(folder_with(tmp_path, config))
