# SPDX-License-Identifier: Apache-2.0
"""What a folder must be to be served, and an adapter beside its base as PEFT computes both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from megacpt.serve.model import ServedModel
from tests.serve.folders import serve, write_model

IDS_BS = torch.tensor([[7, 1, 42, 200]])
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def with_code(folder: Path, *, file: str, **changes: Any) -> Path:
    """The folder, whose ``file`` asks for code beside it, which would leave a mark."""
    path = folder / file
    classes = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "code.Own")
    code = {"auto_map": {**classes, "AutoTokenizer": ["code.Own", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | code | changes))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n")
    return folder


def write_adapter(folder: Path, *, base: Path) -> torch.Tensor:
    """A random LoRA of ``base``; the logits of both by PEFT."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    both = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    both.save_pretrained(str(folder))
    with torch.inference_mode():
        logits_BSV: torch.Tensor = both.eval()(IDS_BS).logits
    return logits_BSV


def logits(served: ServedModel) -> torch.Tensor:
    with torch.inference_mode():
        logits_BSV: torch.Tensor = served.model(IDS_BS).logits
    return logits_BSV


@pytest.mark.parametrize("is_stated", [True, False])
def test_an_adapter_is_served_beside_its_base(tmp_path: Path, is_stated: bool) -> None:
    base = write_model(tmp_path / "base")
    wanted_BSV = write_adapter(tmp_path / "adapter", base=base)
    bare_BSV = logits(serve(base))
    if not is_stated:
        base = base.rename(tmp_path / "elsewhere")
        with pytest.raises(ModelError, match=r"whose base model, .*/base, is no folder here; name"):
            serve(tmp_path / "adapter")
    served = serve(tmp_path / "adapter", base=None if is_stated else base)
    torch.testing.assert_close(logits(served), wanted_BSV, rtol=1e-4, atol=1e-5)
    assert (wanted_BSV - bare_BSV).abs().max() > 1e-2
    assert served.encode("ab") == serve(base).encode("ab")


def test_an_adapter_s_own_template_and_ends_are_used(tmp_path: Path) -> None:
    """As ``megacpt export`` writes them of a run that learned conversations."""
    base = write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base=base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "adapter" / name)
    (tmp_path / "adapter" / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "adapter" / "generation_config.json").write_text('{"eos_token_id": [7, 256]}')
    served = serve(tmp_path / "adapter")
    asked = [{"role": "user", "content": "hi"}]
    assert served.encode_chat(asked) == served.encode("<user>hi")
    assert served.end_ids == {7, 256}
    assert serve(base).end_ids == {256}


def without(path: Path, *, name: str) -> None:
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


def test_an_adapter_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base=base)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    without(tmp_path / "adapter" / "adapter_model.safetensors", name=name)
    with pytest.raises(ModelError, match=r"adapter is no adapter of its base model.*q_proj"):
        serve(tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", base=write_model(tmp_path / "base"))
    other = write_model(tmp_path / "other", hidden_size=32)
    with pytest.raises(ModelError, match=r"size mismatch.*was trained beside with --base"):
        serve(tmp_path / "adapter", base=other)


def lacks_a_tensor(folder: Path) -> None:
    without(folder / "model.safetensors", name="model.layers.1.mlp.up_proj.weight")


def is_cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def has_other_sizes(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 96', '"intermediate_size": 98'))


def is_empty(folder: Path) -> None:
    shutil.rmtree(folder)


def has_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lacks_a_tensor,
            r"lacks weights of its model: model\.layers\.1\.mlp\.up_proj",
        ),
        (is_cut, "cannot be served: transformers says: .*; export or convert it again"),
        (has_other_sizes, "cannot be served: transformers says: "),
        (is_empty, "is no Hugging Face folder: it has no config.json"),
        (has_no_json, r"config\.json is no JSON"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(write_model(tmp_path / "m"))
    with pytest.raises(ModelError, match=message):
        serve(tmp_path / "m")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_folder_is_left_alone_where_transformers_has_its_own(
    tmp_path: Path, file: str
) -> None:
    """As beside DeepSeek's weights, whose export carries it along."""
    plain = serve(write_model(tmp_path / "plain"))
    folder = with_code(write_model(tmp_path / "m"), file=file)
    torch.testing.assert_close(logits(serve(folder)), logits(plain), rtol=0, atol=0)
    assert not (folder / "ran").exists()


def test_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = with_code(write_model(tmp_path / "m"), file="config.json", model_type="mine")
    with pytest.raises(ModelError, match=r"needs code of its own .* is never run here; use a"):
        serve(folder)
    assert not (folder / "ran").exists()
