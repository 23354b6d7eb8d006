# SPDX-License-Identifier: Apache-2.0
"""A merged folder computes in transformers what the adapter does in PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megacpt.config.sections import Dtype
from tests.convert.adapters.support import drawn_adapter
from tests.convert.adapters.test_folder import ATOL, dealt, far, logits_of, write_base

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]

RUNS: dict[str, dict[str, Any]] = {
    "llama-tied-gqa": {"train_embedding": True, "rank_stabilised": True},
    "ropes-longrope-of-a-part": {"method": "dora", "train_head": True},
    "routed-qwen3-moe-first-dense": {"method": "pissa"},
    "gpt_oss-windows": {},
    "gemma3": {"method": "lora_xs"},
}


@pytest.mark.parametrize("name", dealt(RUNS))
@pytest.mark.parametrize("through_peft", [False, True], ids=["run", "folder"])
def test_merged_is_the_same_model(name: str, through_peft: bool, tmp_path: Path) -> None:
    """``folder``: what PEFT's holds is read again."""
    from megacpt.convert.adapters.export import load_peft, write_peft
    from megacpt.convert.by_transformers import load_transformers
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import beside_base, open_source

    base = write_base(name, folder=tmp_path / "base")
    source = drawn_adapter(base, **RUNS[name])
    (tmp_path / "peft").mkdir()
    write_peft(source, folder=tmp_path / "peft", base_model=str(base))
    whole = open_source(tmp_path / "peft") if through_peft else beside_base(source)
    convert(Conversion(source=whole, form=Form.hf, destination=tmp_path / "hf", dtype=Dtype.fp32))
    device = torch.device("cpu")
    expected = logits_of(load_peft(tmp_path / "peft", device=device, base=base))
    assert far(logits_of(load_transformers(tmp_path / "hf", device=device)), expected) < ATOL
    assert far(logits_of(load_transformers(base, device=device)), expected) > 0.05


def test_two_are_merged_one_after_the_other(tmp_path: Path) -> None:
    """Of other ranks and targets; peft computes with both at once."""
    from peft import PeftModel

    from megacpt.convert.adapters.export import load_peft, write_peft
    from megacpt.convert.by_transformers import load_transformers
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import beside_base, open_trained

    device = torch.device("cpu")
    base = write_base("llama-tied-gqa", folder=tmp_path / "base")
    settings: dict[str, dict[str, Any]] = {
        "first": {"targets": "q_proj,down_proj"},
        "second": {"rank": 5, "alpha": 2.0, "targets": "v_proj,down_proj", "seed": 6},
    }
    model = base
    for name, of_this in settings.items():
        (tmp_path / name).mkdir()
        write_peft(drawn_adapter(base, **of_this), folder=tmp_path / name, base_model=str(base))
        source = open_trained(tmp_path / name, base=model)
        assert source is not None
        model = tmp_path / f"with-{name}"
        convert(
            Conversion(
                source=beside_base(source), form=Form.hf, destination=model, dtype=Dtype.fp32
            )
        )
    both: PeftModel = load_peft(tmp_path / "first", device=device, base=base)
    one = logits_of(both)
    both.load_adapter(str(tmp_path / "second"), adapter_name="second")
    both.base_model.set_adapter(["default", "second"])
    expected = logits_of(both.float().eval())
    assert far(logits_of(load_transformers(model, device=device)), expected) < ATOL
    assert far(one, expected) > 0.05


def test_a_tied_model_stays_tied(tmp_path: Path) -> None:
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import beside_base

    base = write_base("llama-tied-gqa", folder=tmp_path / "base")
    source = drawn_adapter(base, train_embedding=True)
    convert(
        Conversion(
            source=beside_base(source),
            form=Form.hf,
            destination=tmp_path / "hf",
            dtype=Dtype.bf16,
        )
    )
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert tensors.keys() == load_file(base / "model.safetensors").keys()
    assert "lm_head.weight" not in tensors
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"]
