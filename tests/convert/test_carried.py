# SPDX-License-Identifier: Apache-2.0
"""Everything of the base model's folder travels but its weights and what is said of them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from megacpt.convert.carried import carry_over
from megacpt.errors import ModelError
from tests.support import write_model_folder

MODULE = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
    said = "from the folder's own code"
"""


def write(folder: Path, *files: str, content: bytes = b"text\n") -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def carried(source: Path, folder: Path) -> set[str]:
    carry_over(source, folder=folder)
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


OWN = {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    "files",
    [
        ("LICENSE.txt", "USE_POLICY.md", "NOTICE.txt", "README.md", "Model License.pdf"),
        ("additional_chat_templates/tool_use.jinja", "chat_template.jinja", "chat_template.json"),
        ("modeling_own.py", "configuration_own.py", "layers/own_norm.py", "custom_generate/g.py"),
        ("tokenizer.model", "tekken.json", "qwen.tiktoken", "spiece.model", "vocab.bpe"),
        ("generation_config.json", "preprocessor_config.json", "1_Pooling/config.json"),
        ("figures/benchmark.png", "docs/card.html", "ACCEPTABLE USE", "quantity.csv"),
    ],
)
def test_what_is_no_weights_travels(files: tuple[str, ...], tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    write(base, *(file for file in files if "/config.json" not in file), content=b"\x00any\xff")
    write(base, *(file for file in files if "/config.json" in file))
    expected = {file for file in files if file != "1_Pooling/config.json"}
    assert carried(base, tmp_path / "hf") == expected | OWN
    assert all((tmp_path / "hf" / n).read_bytes() == (base / n).read_bytes() for n in expected)


@pytest.mark.parametrize(
    "files",
    [
        ("model.safetensors", "model.safetensors.index.json", "consolidated.safetensors"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin", "optimizer.pt"),
        ("original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"),
        ("onnx/model.onnx", "onnx/model.onnx_data", "onnx/tokenizer.json", "onnx/config.json"),
        ("Model-Q4_K_M.GGUF", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.npz"),
        (".cache/huggingface/download/a.metadata", ".git/HEAD", "__pycache__/a.pyc", ".DS_Store"),
        ("checkpoint-500/model.safetensors", "checkpoint-500/trainer_state.json"),
        ("hf_quant_config.json", "quantize_config.json", "adapter_config.json", "params.json"),
        ("coreml/llama.mlpackage/Manifest.json", "coreml/llama.mlpackage/Data/weights/weight.bin"),
    ],
)
def test_weights_and_what_is_said_of_them_stay(files: tuple[str, ...], tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    write(base, *files)
    assert carried(base, tmp_path / "hf") == OWN


def test_a_pickle_is_one_whatever_its_name(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, saved)
    write(base, "state.dat", content=saved.getvalue())
    write(base, "scores", content=pickle.dumps([1.0, 2.0]))
    write(base, "llama", content=b"GGUF\x03\x00\x00\x00")
    assert carried(base, tmp_path / "first") == OWN
    with zipfile.ZipFile(base / "samples.zip", "w") as archive:
        archive.writestr("sample.txt", "text")
    assert carried(base, tmp_path / "second") == {*OWN, "samples.zip"}


def test_links_of_a_hub_cache_become_files(tmp_path: Path) -> None:
    """As huggingface_hub lays them: names in snapshots/, contents in blobs/ under their sums."""
    made = write_model_folder(tmp_path / "made")
    write(made, "LICENSE.txt", "additional_chat_templates/rag.jinja", "model.safetensors")
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in made.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(blobs / str(number))
    assert carried(snapshot, tmp_path / "hf") == {
        *OWN,
        "LICENSE.txt",
        "additional_chat_templates/rag.jinja",
    }
    assert not any(path.is_symlink() for path in (tmp_path / "hf").rglob("*"))


def test_links_that_lead_nowhere_or_round(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    (base / "again").symlink_to(base)
    (base / "notes").symlink_to(tmp_path / "notes")
    write(tmp_path / "notes", "a.txt")
    assert carried(base, tmp_path / "hf") == {*OWN, "notes/a.txt"}
    (base / "LICENSE").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"LICENSE is a link to .*gone, which does not exist"):
        carry_over(base, folder=tmp_path / "other")


def test_transformers_finds_templates_and_code_in_the_copy(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    base = write_model_folder(tmp_path / "base")
    write(base, "chat_template.jinja", content=b"D")
    write(base, "additional_chat_templates/tool_use.jinja", content=b"T")
    write(base, "additional_chat_templates/rag.jinja", content=b"R")
    write(base, "configuration_own.py", content=MODULE.encode())
    carry_over(base, folder=tmp_path / "hf")
    stated = json.loads((base / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "configuration_own.OwnConfig"},
    }
    (tmp_path / "hf" / "config.json").write_text(json.dumps(stated))
    own = AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert own.said == "from the folder's own code"
    (tmp_path / "hf" / "config.json").write_text((base / "config.json").read_text())
    templates = AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template
    assert templates == {"default": "D", "tool_use": "T", "rag": "R"}
