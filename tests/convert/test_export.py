# SPDX-License-Identifier: Apache-2.0
"""The written folder is what transformers loads, whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from tests.convert.support import held_in_memory
from tests.llama_cases import CASES, TOKENS_BS, write_llama

pytestmark = pytest.mark.mcore


def import_model(folder: Path, dtype: Dtype = Dtype.fp32) -> tuple[list[Any], Architecture]:
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    architecture = read_architecture(folder)
    chunks = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=dtype),
        kind=DeviceKind.cpu,
        sequence_length=32,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    return chunks, architecture


def export(
    source: Path,
    output: Path,
    *,
    dtype: Dtype = Dtype.fp32,
    describe: Callable[[Path], object] | None = None,
    certify: Callable[[Path], object] | None = None,
) -> Path:
    from megacpt.convert.export import export_hf

    chunks, architecture = import_model(source, dtype)
    return export_hf(
        chunks,
        architecture=architecture,
        source_folder=source,
        output=output,
        dtype=dtype,
        describe=describe,
        certify=certify,
    )


def sign(folder: Path) -> None:
    (folder / "certificate.json").write_text("{}")


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_the_same_model(case: str, tmp_path: Path, one_rank: None) -> None:
    from transformers import AutoModelForCausalLM

    model = write_llama(tmp_path / "base", **CASES[case])
    loaded = AutoModelForCausalLM.from_pretrained(export(tmp_path / "base", tmp_path / "hf"))
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS_BS).logits, model(TOKENS_BS).logits)


@pytest.mark.parametrize(("dtype", "name"), [(Dtype.fp32, "float32"), (Dtype.bf16, "bfloat16")])
def test_config_and_tensors_agree_on_the_type(
    dtype: Dtype, name: str, tmp_path: Path, one_rank: None
) -> None:
    write_llama(tmp_path / "base")
    output = export(tmp_path / "base", tmp_path / "hf", dtype=dtype)
    config = json.loads((output / "config.json").read_text())
    source = json.loads((tmp_path / "base" / "config.json").read_text())
    rope = {"rope_theta": 10000.0, "rope_scaling": None}
    assert config == source | rope | {"torch_dtype": name, "dtype": name}
    tensors = load_file(output / "model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {f"torch.{name}"}


def test_tokenizer_files_are_copied_and_generation_config_is_there(
    tmp_path: Path, one_rank: None
) -> None:
    write_llama(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").unlink()
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    output = export(tmp_path / "base", tmp_path / "hf")
    assert (output / "tokenizer.json").read_text() == "{}"
    generation = json.loads((output / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (0, 0)


def test_large_models_are_cut_into_files_with_an_index(tmp_path: Path) -> None:
    from megacpt.convert.safetensors_files import write_tensors

    tensors = {f"t{n}": torch.full((10,), float(n)) for n in range(7)}
    held = {name: held_in_memory(tensor) for name, tensor in tensors.items()}
    write_tensors(held, folder=tmp_path, placed={}, shard_bytes_max=100)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 280}
    for name, tensor in tensors.items():
        assert torch.equal(load_file(tmp_path / index["weight_map"][name])[name], tensor)


def test_an_earlier_export_is_replaced(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path / "base")
    output = export(tmp_path / "base", tmp_path / "hf", certify=sign)
    (output / "stale").write_text("old")
    export(tmp_path / "base", output, certify=sign)
    assert not (output / "stale").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "hf"]


def test_the_description_is_there_before_the_certificate(tmp_path: Path, one_rank: None) -> None:
    def describe(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        (folder / "README.md").write_text("# A model")

    def certify(folder: Path) -> None:
        assert (folder / "README.md").read_text() == "# A model"
        sign(folder)

    write_llama(tmp_path / "base")
    export(tmp_path / "base", tmp_path / "hf", describe=describe, certify=certify)
    assert (tmp_path / "hf" / "README.md").exists()


def test_any_other_folder_is_refused(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path / "base")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "thesis.txt").write_text("years of work")
    with pytest.raises(EnvironmentError_, match="exists and is not an earlier export"):
        export(tmp_path / "base", tmp_path / "hf")
    assert (tmp_path / "hf" / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_fails_its_certificate_gets_no_name(tmp_path: Path, one_rank: None) -> None:
    def refuse(folder: Path) -> None:
        raise RuntimeError("not the same")

    write_llama(tmp_path / "base")
    with pytest.raises(RuntimeError, match="not the same"):
        export(tmp_path / "base", tmp_path / "hf", certify=refuse)
    assert not (tmp_path / "hf").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path / "base")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentError_, match=r"file/hf cannot be written: .*; choose a folder"):
        export(tmp_path / "base", tmp_path / "file" / "hf")
