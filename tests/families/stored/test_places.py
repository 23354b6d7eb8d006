# SPDX-License-Identifier: Apache-2.0
"""What does not fit is refused before a tensor is read, and the message says what is true."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.stored.places import StoredAs, find_places, storage_notes
from tests.llama_cases import write_llama

Tensors = dict[str, torch.Tensor]
UP, EMBEDDING, HEAD = "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head"
SMALL: dict[str, Any] = {"num_hidden_layers": 2}


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def state(folder: Path, **changes: Any) -> None:
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | changes))


def places(folder: Path) -> dict[str, StoredAs]:
    return find_places(folder, architecture=read_architecture(folder))


def quantise_as_gptq(tensors: Tensors) -> None:
    del tensors[UP]
    tensors[UP.replace("weight", "qweight")] = torch.zeros(6, 72, dtype=torch.int32)
    tensors[UP.replace("weight", "scales")] = torch.zeros(1, 72)


def quantise_as_fp8(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP].to(torch.float8_e4m3fn)
    tensors[f"{UP}_scale_inv"] = torch.ones(1, 1)


def quantise_as_bitsandbytes(tensors: Tensors) -> None:
    tensors[UP] = torch.zeros(72 * 24, 1, dtype=torch.uint8)


def drop_last_layer(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def wrap(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[f"_orig_mod.{name}"] = tensors.pop(name)


def adapt(tensors: Tensors) -> None:
    for name in list(tensors):
        del tensors[name]
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(UP), rf"no tensor {UP}, which its config.json asks for; download"),
        (
            drop_last_layer,
            r"and 8 more.*num_hidden_layers is 2 there and 1 in the weights, use the config.json",
        ),
        (wrap, r"it is there as _orig_mod.model.embed_tokens.weight, save the model itself"),
        (adapt, r"it holds an adapter \(base_model.*lora_A.weight\), merge it into its model"),
        (
            quantise_as_gptq,
            r"its weights are quantised \(.*up_proj.qweight is of type I32\), use the unquantised",
        ),
        (quantise_as_bitsandbytes, r"of type F32, BF16 or F16, but is U8; use the unquantised"),
        (quantise_as_fp8, r"has a tensor .*up_proj.weight_scale_inv that its config.json gives no"),
        (lambda t: t.pop("lm_head.weight"), r"no tensor lm_head.*tie_word_embeddings is false or"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}),
            r"has a tensor .*q_proj.bias that its config.json gives no place",
        ),
        (
            lambda t: t.update({EMBEDDING: torch.zeros(136, 48)}),
            r"embed_tokens.weight in .* must have shape \[131, 48\].* but has \[136, 48\]; use the",
        ),
    ],
)
def test_what_does_not_fit(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    write_llama(tmp_path, **SMALL)
    edit(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        places(tmp_path)


@pytest.mark.parametrize(
    ("key", "stated", "words"),
    [
        ("quantization_config", {"quant_method": "gptq"}, "quantization_config (gptq)"),
        ("quantization", {"bits": 4, "group_size": 64}, "quantization (4)"),
        ("compression_config", {"format": "pack-quantized"}, "compression_config"),
    ],
)
def test_a_quantised_model_and_a_config_that_only_says_so(
    key: str, stated: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_llama(tmp_path, **SMALL)
    architecture = read_architecture(tmp_path)
    assert list(storage_notes(tmp_path, architecture=architecture)) == []
    state(tmp_path, **{key: stated})
    (note,) = storage_notes(tmp_path, architecture=architecture)
    assert f"states {words}, but the weights are plain numbers" in note
    assert "the export leaves the key out" in note
    edit(tmp_path, quantise_as_gptq)
    with pytest.raises(ModelError, match=f"type I32, as config.json says: {re.escape(words)}"):
        list(storage_notes(tmp_path, architecture=architecture))
    (tmp_path / "model.safetensors").unlink()
    assert list(storage_notes(tmp_path, architecture=architecture)) == []
    stray_index(tmp_path)
    assert list(storage_notes(tmp_path, architecture=architecture)) == []


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4976698672\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS.encode(), r"model.safetensors is a pointer of Git LFS, .* run: git lfs pull"),
        (b"", r"model.safetensors is not a whole safetensors file"),
        (b"<!DOCTYPE html><html>" * 9, r"model.safetensors is not a whole safetensors file"),
        (None, r"is a link to .*blob, which does not exist; copy the files themselves"),
    ],
)
def test_a_file_that_is_no_weights(content: bytes | None, message: str, tmp_path: Path) -> None:
    write_llama(tmp_path, **SMALL)
    weights = tmp_path / "model.safetensors"
    weights.unlink()
    if content is None:
        weights.symlink_to(tmp_path / "blob")
    else:
        weights.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        places(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", r"weights that are there: pytorch_model.bin\); save the model again"),
        ("consolidated.safetensors", r"weights that are there: consolidated.safetensors\)"),
        ("model-q4.gguf", r"weights that are there: model-q4.gguf\)"),
        ("adapter_config.json", r"it holds an adapter: load it with peft, merge_and_unload"),
        ("README.md", r"nor model.safetensors.index.json; save the model again"),
    ],
)
def test_weights_in_another_form(file: str, message: str, tmp_path: Path) -> None:
    write_llama(tmp_path, **SMALL)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_text("")
    with pytest.raises(ModelError, match=message):
        places(tmp_path)


def stray_index(folder: Path) -> None:
    index = {"weight_map": {UP: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def index_of_others(folder: Path) -> None:
    """A whole index, but transformers begins with the single file."""
    other = {name: t + 1 for name, t in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "model-1.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(other, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def named_by_config(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "tuned.safetensors")
    edit(folder, lambda t: [tensor.zero_() for tensor in t.values()])
    state(folder, transformers_weights="tuned.safetensors")


def misplaced_in_index(folder: Path) -> None:
    """transformers reads all files of an index, and takes each tensor where it finds it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({n: tensors[n] for n in held}, folder / file, metadata={"format": "pt"})
    wrong = dict.fromkeys(names[::2], "b.safetensors") | dict.fromkeys(names[1::2], "a.safetensors")
    index = {"metadata": {}, "weight_map": wrong}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change", [stray_index, broken_index, index_of_others, named_by_config, misplaced_in_index]
)
def test_the_file_is_the_one_that_transformers_takes(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    write_llama(tmp_path, **SMALL)
    change(tmp_path)
    found = places(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name in (UP, EMBEDDING):
        assert torch.equal(load_file(found[name].file)[name], model[name])


@pytest.mark.parametrize("absent", ["gone.safetensors", "gone.safetensors.index.json"])
def test_a_file_that_the_config_names_must_be_there(absent: str, tmp_path: Path) -> None:
    write_llama(tmp_path, **SMALL)
    state(tmp_path, transformers_weights=absent)
    with pytest.raises(ModelError, match=rf"{absent}, which config.json .* names, is missing"):
        places(tmp_path)
