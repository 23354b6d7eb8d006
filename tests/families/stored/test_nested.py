# SPDX-License-Identifier: Apache-2.0
"""The text model inside another is read as transformers reads it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from megacpt.errors import ModelError
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nested import DEFAULTS, OUTER, text_of
from megacpt.families.stored.places import find_places, require_parts
from tests.multimodal_cases import CASES, write_parts

HEAD = "language_model.lm_head.weight"


def state(folder: Path, content: dict[str, Any]) -> HfConfig:
    (folder / "config.json").write_text(json.dumps(content))
    return HfConfig.read(folder)


def test_every_such_type_is_one_of_transformers_and_loads_as_text_and_images() -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    for outer, text in OUTER.items():
        config = CONFIG_MAPPING[outer]()
        assert config.text_config.model_type == text, outer
        assert outer in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert not OUTER.keys() & FAMILIES.keys()


@pytest.mark.parametrize("text", DEFAULTS)
def test_what_is_left_out_is_what_transformers_takes(text: str) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[text]()
    for key, value in DEFAULTS[text].items():
        found = config.rope_parameters[key] if key == "rope_theta" else getattr(config, key)
        assert found == value, key


@pytest.mark.parametrize(
    ("stated", "sizes"),
    [
        ({"model_type": "llama", "vocab_size": 32064}, (4096, 11008, 32, 32, 32064)),
        ({"model_type": "mistral", "num_key_value_heads": 8}, (4096, 14336, 32, 8, 32000)),
        ({}, (4096, 11008, 32, 32, 32000)),
    ],
)
def test_llava_leaves_sizes_out(
    stated: dict[str, Any], sizes: tuple[int, ...], tmp_path: Path
) -> None:
    """As the hub's llava-1.5 and llava-v1.6-mistral do."""
    state(tmp_path, {"model_type": "llava", "text_config": stated, "pad_token_id": 5})
    a = read_architecture(tmp_path)
    found = (a.hidden_size, a.ffn_hidden_size, a.num_layers, a.num_kv_heads, a.vocab_size)
    assert found == sizes
    assert a.pad_id == 5


def test_the_first_qwen2_vl_states_all_on_top(tmp_path: Path) -> None:
    from transformers import Qwen2VLConfig

    flat = {
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 131,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 3e5,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        "vision_config": {"depth": 1},
    }
    state(tmp_path, flat)
    a, theirs = read_architecture(tmp_path), Qwen2VLConfig(**flat).text_config
    assert (a.family, a.rope_theta, a.rope_scaling) == ("qwen2", 3e5, None)
    assert a.norm_eps == theirs.rms_norm_eps
    assert a.tied_embeddings


@pytest.mark.parametrize(
    ("case", "top", "inside", "stored"),
    product(("mistral3", "llava"), (None, True, False), (None, True, False), (True, False)),
)
def test_the_head_is_tied_as_in_transformers(
    case: str, top: bool | None, inside: bool | None, stored: bool, tmp_path: Path
) -> None:
    """mistral3 ties by its own default, llava does not; a head of its own, where one is stored."""
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    write_parts(tmp_path, case=case)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    if not stored:
        del tensors[HEAD]
        save_file(tensors, weights, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    for values, value in ((config, top), (config["text_config"], inside)):
        values.pop("tie_word_embeddings")
        values |= {} if value is None else {"tie_word_embeddings": value}
    state(tmp_path, config)
    tied = read_architecture(tmp_path).tied_embeddings
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    theirs = torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    if stored and tied:
        # Both say so, and the head that is stored differs: refused when it is read.
        assert {top, inside} in ({True}, {True, None})
    elif not stored and not tied:
        # transformers ties it, or draws a head at random.
        with pytest.raises(ModelError, match=r"no tensor lm_head.weight"):
            find_places(tmp_path, architecture=read_architecture(tmp_path))
        assert not theirs
    elif (top, inside, stored) == (False, True, False):
        # 4 reads what is inside, 5 reads it for llava only and draws mistral3's head at random.
        assert tied
    else:
        assert tied == theirs


def test_other_models_have_no_text_model_inside(tmp_path: Path) -> None:
    assert text_of(state(tmp_path, {"model_type": "llama", "text_config": {}})) is None


def test_a_model_of_parts_without_weights_is_refused(tmp_path: Path) -> None:
    state(tmp_path, {"model_type": "llava", "text_config": {}})
    with pytest.raises(ModelError, match=r"has no weights, but its model_type llava has other"):
        require_parts(tmp_path)
    write_parts(tmp_path, case=next(iter(CASES)))
    require_parts(tmp_path)


def test_a_tensor_of_the_text_that_is_not_there_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_parts(tmp_path, case="llava")
    tensors = load_file(tmp_path / "model.safetensors")
    gone = "model.layers.1.mlp.up_proj.weight"
    del tensors[f"language_model.{gone}"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"no tensor {gone}"):
        find_places(tmp_path, architecture=read_architecture(tmp_path))
