# SPDX-License-Identifier: Apache-2.0
"""Of a model of text and images the text is trained; all else comes through an export as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.config.sections import Dtype
from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.stored.places import storage_notes
from tests.convert.test_export import export, import_model
from tests.family_cases.delta_nets import NOISE
from tests.model.layout_runs import assert_same_tensors
from tests.multimodal_cases import CASES, TOKENS_BS, write_parts
from tests.qwen_cases import write_qwen

pytestmark = pytest.mark.mcore
IS_TEXT = ("language_model", "text_model", "lm_head")


def is_text(name: str, *, case: str) -> bool:
    if case.startswith(("qwen2_vl", "qwen2_5_vl")):
        return not name.startswith("visual.")
    return any(part in name for part in IS_TEXT)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS_BS).logits


def native_logits_of(chunks: list[Any]) -> torch.Tensor:
    from megacpt.convert.certificate import native_logits

    return native_logits(chunks[0].eval(), tokens_BS=TOKENS_BS)


def train(chunks: list[Any]) -> None:
    """Moves every weight."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for param in chunks[0].parameters():
            param += 0.05 * torch.randn(param.shape, generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_trained_and_the_rest_travels(
    case: str, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.convert.certificate import load_transformers
    from megacpt.convert.export import export_hf

    base = tmp_path / "base"
    model = write_parts(base, case=case)
    chunks, architecture = import_model(base)
    native = native_logits_of(chunks)
    vocabulary = architecture.vocab_size
    close = {"rtol": 0.0, "atol": NOISE if case.startswith("qwen3_5") else 2e-5}
    torch.testing.assert_close(native[..., :vocabulary], logits_of(model), **close)
    train(chunks)
    output = export_hf(
        chunks,
        architecture=architecture,
        source_folder=base,
        output=tmp_path / "hf",
        dtype=Dtype.fp32,
    )
    before = load_file(base / "model.safetensors")
    after = load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) != is_text(name, case=case), name
    loaded = load_transformers(output, device=torch.device("cpu"))
    assert type(loaded) is type(model)
    trained = native_logits_of(chunks)[..., :vocabulary]
    torch.testing.assert_close(logits_of(loaded), trained, **close)
    assert float((trained - native[..., :vocabulary]).abs().max()) > 0.1


def test_other_parts_keep_their_type_and_the_config_says_so_of_the_text(
    tmp_path: Path, one_rank: None
) -> None:
    write_parts(tmp_path / "base", case="mistral3-tied")
    output = export(tmp_path / "base", tmp_path / "hf", dtype=Dtype.bf16)
    types = {
        (is_text(name, case=""), str(tensor.dtype))
        for name, tensor in load_file(output / "model.safetensors").items()
    }
    assert types == {(True, "torch.bfloat16"), (False, "torch.float32")}
    config = json.loads((output / "config.json").read_text())
    assert config["architectures"] == ["Mistral3ForConditionalGeneration"]
    assert "architectures" not in config["text_config"]
    for stated in (config, config["text_config"]):
        assert (stated["dtype"], stated["tie_word_embeddings"]) == ("bfloat16", True)
    base = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["vision_config"] == base["vision_config"]


def test_layers_that_predict_further_ahead_travel(tmp_path: Path, one_rank: None) -> None:
    """``mtp.*`` of any family; layers after the last, as many as the config says."""
    write_qwen(tmp_path, model_type="qwen3", num_hidden_layers=2)
    tensors = load_file(tmp_path / "model.safetensors")
    further = {
        "mtp.fc.weight": torch.randn(8, 4),
        "model.layers.2.eh_proj.weight": torch.randn(3, 3).bfloat16(),
    }
    save_file(tensors | further, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has a tensor model.layers.2.eh_proj.weight that its"):
        import_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_nextn_predict_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (note,) = storage_notes(tmp_path, architecture=read_architecture(tmp_path))
    assert "(tensors: 1 of layers.2 and 1 of mtp): not trained" in note
    written = load_file(export(tmp_path, tmp_path / "hf") / "model.safetensors")
    assert_same_tensors(written, tensors | further)
