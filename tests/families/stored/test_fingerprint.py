# SPDX-License-Identifier: Apache-2.0
"""A base model's fingerprint: of its tensors, wherever they lie, and of nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.config.compose import compose
from megacpt.errors import ModelError
from megacpt.families.stored.fingerprint import BLOCK_BYTES, base_of_run, fingerprint
from tests.support import write_model_folder

TENSORS = {
    "model.embed_tokens.weight": (257, 64),
    "model.norm.weight": (64,),
    "model.layers.0.mlp.up_proj.weight": (96, 64),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_model_folder(tmp_path / "base")
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in TENSORS.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change(folder: Path, *, name: str, value: int, by: float = 1e-3) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[value] += by
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [0, 1023, 257 * 32, -1024, -1])
def test_a_weight_changed_in_a_sampled_block_is_seen(folder: Path, value: int) -> None:
    before = fingerprint(folder)
    change(folder, name="model.embed_tokens.weight", value=value)
    assert fingerprint(folder) != before


def test_every_value_of_a_small_tensor_counts(folder: Path) -> None:
    before = fingerprint(folder)
    for value in (0, 31, 63):
        change(folder, name="model.norm.weight", value=value)
        assert fingerprint(folder) != before
        change(folder, name="model.norm.weight", value=value, by=-1e-3)
        before = fingerprint(folder)


def test_between_the_blocks_nothing_is_read(folder: Path) -> None:
    before = fingerprint(folder)
    change(folder, name="model.embed_tokens.weight", value=BLOCK_BYTES // 4)
    assert fingerprint(folder) == before


def test_the_same_tensors_elsewhere_are_the_same(folder: Path) -> None:
    before = fingerprint(folder)
    renamed = folder.rename(folder.with_name("renamed"))
    assert fingerprint(renamed) == before
    tensors = load_file(renamed / "model.safetensors")
    (renamed / "model.safetensors").unlink()
    weight_map = {}
    for number, name in enumerate(reversed(list(tensors))):
        file = f"model-{number}-of-3.safetensors"
        # A head of another length moves all that follows; more than the index names is not read.
        held = {name: tensors[name], f"unused.{number}": torch.ones(3)}
        save_file(held, renamed / file, metadata={"padding": "x" * (7 * number)})
        weight_map[name] = file
    index = {"metadata": {}, "weight_map": weight_map}
    (renamed / "model.safetensors.index.json").write_text(json.dumps(index))
    unnamed = fingerprint(renamed)
    for number in range(3):
        held = load_file(renamed / f"model-{number}-of-3.safetensors")
        held.pop(f"unused.{number}")
        save_file(held, renamed / f"model-{number}-of-3.safetensors")
    assert fingerprint(renamed) == before != unnamed


def test_type_shape_and_name_count(folder: Path) -> None:
    found = {fingerprint(folder)}
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    for changed in (
        tensors | {name: tensors[name].view(64, 96)},
        tensors | {name: tensors[name].view(torch.int32)},
        {(n.replace("up", "gate") if n == name else n): t for n, t in tensors.items()},
    ):
        save_file(changed, folder / "model.safetensors")
        found.add(fingerprint(folder))
    assert len(found) == 4


def test_only_adapters_have_one(folder: Path) -> None:
    path = f"model.path={folder}"

    def base(*settings: str) -> str | None:
        config = compose([path, *settings])
        return base_of_run(config.model, adapter=config.adapter is not None)

    assert base() is None
    assert base("adapter=lora", "model.init=random") is None
    assert base("adapter=lora") == fingerprint(folder)


def test_a_folder_without_weights_is_no_base(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has neither model.safetensors"):
        fingerprint(folder)
    shutil.copy(__file__, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"is not a whole safetensors file"):
        fingerprint(folder)
