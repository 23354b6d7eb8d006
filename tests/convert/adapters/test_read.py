# SPDX-License-Identifier: Apache-2.0
"""What PEFT itself has written is read for what it is, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from tests.adapter_cases.peft_twin import peft_model, random_start, set_tensors
from tests.convert.adapters.support import drawn_adapter
from tests.convert.adapters.test_folder import ATOL, far, logits_of, write_base

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]

STACKED = "mlp.experts.gate_up_proj"
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama-tied-gqa", {"target_modules": ["q_proj", "down_proj"]}),
    "rslora-patterns": (
        "llama-plain",
        {
            "target_modules": "all-linear",
            "use_rslora": True,
            "rank_pattern": {"up_proj": 5},
            "alpha_pattern": {"k_proj": 11, "layers.1.mlp.up_proj": 3},
            "modules_to_save": ["lm_head"],
        },
    ),
    "dora-of-fused": (
        "ropes-longrope-of-a-part",
        {"target_modules": "all-linear", "use_dora": True},
    ),
    "shared-by-gate-and-up": (
        "routed-qwen3-moe-first-dense",
        {"target_modules": ["o_proj"], "target_parameters": [STACKED]},
    ),
    "some-layers": (
        "norms-gemma3",
        {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1, 2]},
    ),
}


def write_peft_s_own(folder: Path, *, base: Path, **settings: Any) -> Any:
    """No factor of zeros; returns the model."""
    from peft import LoraConfig

    config = LoraConfig(r=3, lora_alpha=5, **settings)
    model = peft_model(base, config=config)
    set_tensors(model, tensors=random_start(base, config=config))
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", SETTINGS)
def test_peft_s_own_folders(case: str, tmp_path: Path) -> None:
    from megacpt.config.sections import Dtype
    from megacpt.convert.by_transformers import load_transformers
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import open_source

    name, settings = SETTINGS[case]
    base = write_base(name, folder=tmp_path / "base")
    expected = logits_of(write_peft_s_own(tmp_path / "peft", base=base, **settings))
    source = open_source(tmp_path / "peft", base=base)
    convert(Conversion(source=source, form=Form.hf, destination=tmp_path / "hf", dtype=Dtype.fp32))
    device = torch.device("cpu")
    assert far(logits_of(load_transformers(tmp_path / "hf", device=device)), expected) < ATOL
    assert far(logits_of(load_transformers(base, device=device)), expected) > 0.005


def test_a_folder_of_ours_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """Ranks too, where PEFT has their sum."""
    from megacpt.convert.adapters.export import write_peft
    from megacpt.convert.adapters.read import peft_folder

    base = write_base("routed-qwen3-moe-first-dense", folder=tmp_path / "base")
    source = drawn_adapter(base, train_embedding=True, layers="0-2")
    (tmp_path / "peft").mkdir()
    write_peft(source, folder=tmp_path / "peft", base_model=str(base))
    found = peft_folder(tmp_path / "peft", base=base)
    assert found.architecture == source.architecture
    assert found.tensors.keys() == source.tensors.keys()
    for tensor_name, tensor in source.tensors.items():
        assert torch.equal(found.tensors[tensor_name].whole(), tensor.whole()), tensor_name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from megacpt.convert.adapters.export import write_peft

    folder = tmp_path_factory.mktemp("written")
    base = write_base("llama-tied-gqa", folder=folder / "base")
    (folder / "peft").mkdir()
    source = drawn_adapter(base, train_embedding=True)
    write_peft(source, folder=folder / "peft", base_model=str(base))
    return base, folder / "peft"


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
HEAD = "base_model.model.lm_head.weight"


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({KEY: None}, {}, rf"lacks {KEY}"),
        ({KEY: torch.zeros(5, 3)}, {}, r"shapes \[3, 48\] and \[5, 3\], which do not fit model"),
        ({"base_model.model.model.norm.weight": torch.ones(48)}, {}, r"norm.weight, which has no"),
        ({KEY.replace("_B", "_A"): None, KEY: None}, {}, r"in some layers, but not model.layers.0"),
        ({HEAD: torch.zeros(131, 48)}, {}, r"must equal the embedding, because the model is tied"),
        ({}, {"peft_type": "IA3"}, r"states peft_type=IA3; LoRA, rsLoRA and DoRA alone"),
        ({}, {"trainable_token_indices": [3]}, r"states trainable_token_indices=\[3\]"),
        ({}, {"bias": "all"}, r"states bias=all"),
        ({}, {"peft_type": ...}, r"is not PEFT's \(KeyError"),
    ],
)
def test_what_does_not_fit_is_named(
    written: tuple[Path, Path],
    changed: dict[str, torch.Tensor | None],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    from megacpt.convert.adapters.read import peft_folder

    base, peft = written
    tensors = load_file(peft / "adapter_model.safetensors") | changed
    save_file(
        {k: v for k, v in tensors.items() if v is not None}, tmp_path / "adapter_model.safetensors"
    )
    stated = json.loads((peft / "adapter_config.json").read_text()) | settings
    text = json.dumps({key: value for key, value in stated.items() if value is not ...})
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        peft_folder(tmp_path, base=base)


def test_a_tied_model_s_table_is_not_two(tmp_path: Path) -> None:
    """A tied model of the same shape has other weights."""
    from megacpt.convert.adapters.export import write_peft
    from megacpt.convert.adapters.read import peft_folder

    base, peft = write_base("llama-plain", folder=tmp_path / "base"), tmp_path / "peft"
    peft.mkdir()
    source = drawn_adapter(base, train_embedding=True, train_head=True)
    write_peft(source, folder=peft, base_model=str(base))
    assert peft_folder(peft, base=base).architecture.adapter is not None
    tensors = load_file(peft / "adapter_model.safetensors")
    tensors[HEAD] = tensors["base_model.model.model.embed_tokens.weight"].clone()
    save_file(tensors, peft / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has one table for embedding and head, which are two"):
        peft_folder(peft, base=base)


def test_a_base_that_is_not_here_must_be_named(written: tuple[Path, Path], tmp_path: Path) -> None:
    from megacpt.convert.opened import open_source

    _, peft = written
    stated = json.loads((peft / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(stated | {"base_model_name_or_path": "org/name"})
    )
    with pytest.raises(ModelError, match="org/name, is no folder here; name it with --base"):
        open_source(tmp_path)
