# SPDX-License-Identifier: Apache-2.0
"""The JSON files of an export are true of what it holds, and whole in every reader's words.

Whether other versions read them so is tests/convert/test_readers.py's to ask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import Dtype
from megacpt.convert.described import model_config, tokenizer_config, write_descriptions
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.hf_config import HfConfig
from tests.llama_cases import LLAMA3_ROPE
from tests.support import LLAMA

SCALED = {**LLAMA3_ROPE}
OF_4 = ("rope_theta", "rope_scaling", "torch_dtype", "num_experts")
OF_5 = ("rope_parameters", "dtype", "num_local_experts")


def described(folder: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a config.json: the same model to those who know one version's words only,
    and to transformers."""
    from transformers import AutoConfig

    (folder / "config.json").write_text(json.dumps(stated))
    architecture = read_architecture(folder)
    config = model_config(HfConfig.read(folder), architecture=architecture, dtype=Dtype.bf16)
    assert config.get("num_experts") == config.get("num_local_experts")
    for others in (OF_4, OF_5):
        own = {key: value for key, value in config.items() if key not in others}
        (folder / "config.json").write_text(json.dumps(own))
        assert read_architecture(folder) == architecture
    (folder / "config.json").write_text(json.dumps(config))
    read = AutoConfig.from_pretrained(folder)
    assert not hasattr(read, "quantization_config")
    assert str(read.dtype) == "torch.bfloat16"
    return config


@pytest.mark.parametrize(
    "left_over",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack"}},
        {"quantization_config": None, "_pre_quantization_dtype": "bfloat16"},
        {"compression_config": {"format": "float-quantized"}},
        {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"bits": 4}},
        {"transformers_weights": "adapted.safetensors", "_name_or_path": "/home/me/base"},
        {"transformers.js_config": {"dtype": "q4", "use_external_data_format": True}},
    ],
    ids=str,
)
def test_how_the_base_stored_its_weights_is_not_said_of_the_export(
    left_over: dict[str, Any], tmp_path: Path
) -> None:
    plain = described(tmp_path, LLAMA)
    assert described(tmp_path, LLAMA | left_over) == plain


@pytest.mark.parametrize(
    ("rope", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_scaling": {"type": "default"}}, 1e4, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        ({"rope_parameters": {**SCALED, "rope_theta": 5e5}}, 5e5, SCALED),
        ({"rope_theta": 5e5, "rope_scaling": SCALED}, 5e5, SCALED),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            1e4,
            {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0},
        ),
    ],
    ids=str,
)
def test_rotary_positions_are_stated_in_both_forms(
    rope: dict[str, Any], theta: float, scaling: dict[str, Any] | None, tmp_path: Path
) -> None:
    stated = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    config = described(tmp_path, stated | rope)
    assert (config["rope_theta"], config["rope_scaling"]) == (theta, scaling)
    of_5 = config["rope_parameters"]
    kind = {"rope_type": "default"} if scaling is None else scaling
    assert {**of_5, "type": None} == {**kind, "rope_theta": theta, "type": None}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["LlamaForCausalLM"], ["LlamaForCausalLM"]),
        (["OwnLlamaForCausalLM"], ["OwnLlamaForCausalLM"]),
        (["LlamaModel"], ["LlamaForCausalLM"]),
        (["LlamaForSequenceClassification"], ["LlamaForCausalLM"]),
        (None, ["LlamaForCausalLM"]),
    ],
)
def test_the_class_is_the_one_that_was_trained(
    classes: object, expected: list[str], tmp_path: Path
) -> None:
    assert described(tmp_path, LLAMA | {"architectures": classes})["architectures"] == expected


FULL, LOCAL = "full_attention", "sliding_attention"
LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
OWN_NAMES = {
    "cohere": {"rms_norm_eps": "layer_norm_eps"},
    "cohere2": {"rms_norm_eps": "layer_norm_eps"},
    "gemma2": {"hidden_act": "hidden_activation"},
    "gemma3_text": {"hidden_act": "hidden_activation"},
    "starcoder2": {"rms_norm_eps": "norm_epsilon"},
}

OWN_SIZES = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v3": {"num_key_value_heads": 32},
}
"""Without a default, or with one that no model of these sizes can have."""


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_no_reader_s_default_counts(model_type: str, tmp_path: Path) -> None:
    """What transformers would have assumed for a short config.json is written out."""
    from transformers import AutoConfig

    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    short = {key: LLAMA[key] for key in keys} | {"model_type": model_type}
    short |= {"hidden_size": 4096, "num_attention_heads": 32} | OWN_SIZES.get(model_type, {})
    assumed = AutoConfig.for_model(**short)
    config = described(tmp_path, short)
    for key in (
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
        *("tie_word_embeddings", "hidden_act"),
    ):
        key = OWN_NAMES.get(model_type, {}).get(key, key)
        assert config[key] == getattr(assumed, key), key
    rope = assumed.rope_parameters.get("full_attention", assumed.rope_parameters)
    assert config["rope_theta"] == rope["rope_theta"]
    if rope is not assumed.rope_parameters:
        assert config["rope_parameters"] == assumed.rope_parameters


@pytest.mark.parametrize(
    ("model_type", "stated"),
    [
        (
            "gemma3_text",
            {"rope_theta": 2e5, "rope_local_base_freq": 77.0, "rope_scaling": LINEAR},
        ),
        ("olmo3", {"rope_theta": 500000.0, "rope_scaling": YARN, "layer_types": [FULL, LOCAL] * 2}),
    ],
)
def test_rotations_of_two_kinds_of_layers_are_stated_for_both_readers(
    model_type: str, stated: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    config = LLAMA | {"model_type": model_type, "rope_parameters": None} | stated
    written = described(tmp_path, config)
    assumed = AutoConfig.for_model(**json.loads(json.dumps(config)))
    assert written["rope_parameters"] == assumed.rope_parameters
    assert {key: written[key] for key in stated} == stated
    # What was written is read as the same again, by transformers 5 and here.
    again = AutoConfig.for_model(**json.loads(json.dumps(written)))
    assert again.rope_parameters == assumed.rope_parameters
    first = read_architecture(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_architecture(tmp_path) == first


def test_the_growth_of_queries_is_stated_for_vllm_too(tmp_path: Path) -> None:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "llama_4_scaling_beta": 0.3,
    }
    written = described(tmp_path, LLAMA | {"model_type": "ministral3", "rope_parameters": rope})
    assert written["rope_parameters"]["llama_4_scaling_beta"] == 0.3
    assert written["llama_4_scaling"] == {"beta": 0.3, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"eos_token_id": [10, 256], "bos_token_id": 3}, {"eos_token_id": [10, 256]}),
        ({"eos_token_id": 7, "pad_token_id": -1, "bos_token_id": 3}, {"eos_token_id": 7}),
        (
            {"eos_token_id": [1, 2, 3], "bos_token_id": [3], "pad_token_id": 4},
            {"eos_token_id": [1, 2, 3], "pad_token_id": 4, "bos_token_id": [3]},
        ),
    ],
)
def test_generation_stops_at_all_ends_of_the_config(
    ids: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import GenerationConfig

    base, folder = tmp_path / "base", tmp_path / "hf"
    base.mkdir()
    folder.mkdir()
    (base / "config.json").write_text(json.dumps(LLAMA | ids))
    write_descriptions(base, folder=folder, architecture=read_architecture(base), dtype=Dtype.fp32)
    written = json.loads((folder / "generation_config.json").read_text())
    assert written == {"_from_model_config": True, "bos_token_id": 3} | expected
    assert GenerationConfig.from_pretrained(folder).eos_token_id == expected["eos_token_id"]


def test_what_the_base_says_of_generation_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    own = '{"eos_token_id": [1, 2], "temperature": 0.6}'
    (tmp_path / "generation_config.json").write_text(own)
    architecture = read_architecture(tmp_path)
    write_descriptions(tmp_path, folder=tmp_path, architecture=architecture, dtype=Dtype.fp32)
    assert (tmp_path / "generation_config.json").read_text() == own


@pytest.mark.parametrize(
    ("stated", "fast", "expected"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, True, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "SentencePieceBackend"}, True, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "SentencePieceBackend"}, False, "SentencePieceBackend"),
        (
            {"tokenizer_class": "LlamaTokenizer", "backend": "tokenizers"},
            True,
            "PreTrainedTokenizerFast",
        ),
        (
            {"tokenizer_class": "Own", "backend": "tokenizers", "auto_map": {"AutoTokenizer": []}},
            True,
            "Own",
        ),
        ({"tokenizer_class": "LlamaTokenizerFast"}, True, "LlamaTokenizerFast"),
        ({"tokenizer_class": "Qwen2Tokenizer"}, True, "Qwen2Tokenizer"),
        ({}, True, None),
    ],
)
def test_a_tokenizer_class_that_4_knows_too(
    stated: dict[str, Any], fast: bool, expected: str | None
) -> None:
    assert tokenizer_config(stated, fast=fast).get("tokenizer_class") == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"extra_special_tokens": ["<a>", "<b>"]}, {"additional_special_tokens": ["<a>", "<b>"]}),
        (
            {"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<b>", "<c>"]},
            {"additional_special_tokens": ["<b>", "<c>", "<a>"]},
        ),
        ({"extra_special_tokens": {"image": "<i>"}}, {"extra_special_tokens": {"image": "<i>"}}),
        ({"additional_special_tokens": ["<a>"]}, {"additional_special_tokens": ["<a>"]}),
    ],
)
def test_further_special_tokens_under_the_name_that_4_knows(
    stated: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps(stated)
    assert tokenizer_config(stated, fast=True) == expected
    assert json.dumps(stated) == before


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ('{"eos_token": "<\\ud83d>", "tokenizer_class": "TokenizersBackend"}', True),
        ('{"eos_token":"<é>",  "tokenizer_class":"PreTrainedTokenizerFast"}', False),
        ('{"chat_template": "日本", "extra_special_tokens": ["é"]}', True),
    ],
)
def test_only_what_must_change_is_written_again(text: str, changed: bool, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "hf"
    for made in (base, folder):
        made.mkdir()
        (made / "config.json").write_text(json.dumps(LLAMA))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    write_descriptions(base, folder=folder, architecture=read_architecture(base), dtype=Dtype.fp32)
    written = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    assert (written != text) is changed
    assert json.loads(written) == tokenizer_config(json.loads(text), fast=True)
