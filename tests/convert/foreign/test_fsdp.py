# SPDX-License-Identifier: Apache-2.0
"""Folders that torch itself has saved, under the names that FSDP users give their states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from megacpt.errors import CheckpointError, ModelError
from tests.convert.foreign.zero_files import write_zero3
from tests.llama_cases import CASES, write_llama
from tests.mixtral_cases import QWEN3, write_mixtral
from tests.multimodal_cases import write_parts
from tests.qwen_cases import write_qwen

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]
Tensors = dict[str, torch.Tensor]


def read(folder: Path, *, base: Path | None) -> Tensors:
    from megacpt.convert.opened import open_source

    source = open_source(folder, base=base)
    return {
        name: torch.cat([t.rows(0, count=1), t.rows(1, count=t.shape[0] - 1)])
        for name, t in source.tensors.items()
    }


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    assert [n for n in found if not torch.equal(found[n], expected[n])] == []


def states(model: Any) -> dict[str, tuple[dict[str, Any], str]]:
    """What is saved, and in which folder, by whom."""
    state = model.state_dict()
    moments = {f"state.{name}.exp_avg": torch.ones_like(t) for name, t in state.items()}
    wrapped = {
        f"_orig_mod.{n}".replace(".self_", "._fsdp_wrapped_module.self_"): t
        for n, t in state.items()
    }
    return {
        "torch": (state, ""),
        "accelerate": ({"model": state}, "pytorch_model_fsdp_0"),
        "beside an optimizer": ({"app": {"model": state, "optim": moments}}, ""),
        "wrapped": (wrapped | {"step": torch.tensor(3), "rng": b"1"}, ""),
    }


@pytest.mark.parametrize("whose", ["torch", "accelerate", "beside an optimizer", "wrapped"])
def test_names(tmp_path: Path, whose: str) -> None:
    model = write_llama(tmp_path / "hf", dtype=torch.bfloat16, **CASES["tied-gqa"])
    state, inside = states(model)[whose]
    dcp.save(state, checkpoint_id=tmp_path / "run" / inside)
    found = read(tmp_path / "run", base=tmp_path / "hf")
    assert_same(found, load_file(tmp_path / "hf/model.safetensors"))


def test_experts_as_transformers_holds_them(tmp_path: Path) -> None:
    model = write_mixtral(tmp_path / "hf", **QWEN3)
    assert "model.layers.0.mlp.experts.gate_up_proj" in model.state_dict()
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "run")
    (tmp_path / "run/config.json").write_text((tmp_path / "hf/config.json").read_text())
    found = read(tmp_path / "run", base=None)
    assert_same(found, load_file(tmp_path / "hf/model.safetensors"))


@pytest.mark.parametrize("kind", ["phi3", "llava", "qwen3_moe"])
@pytest.mark.parametrize("by", ["FSDP", "DeepSpeed"])
def test_a_folder_written_from_it_is_the_model_s_own(tmp_path: Path, kind: str, by: str) -> None:
    """Fused matrices, a text model beside others, experts as transformers holds them."""
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import open_source

    base = tmp_path / "hf"
    model = {
        "phi3": lambda: write_qwen(base, model_type="phi3", pad_token_id=None),
        "llava": lambda: write_parts(base, case="llava"),
        "qwen3_moe": lambda: write_mixtral(base, **QWEN3),
    }[kind]()
    if by == "FSDP":
        dcp.save(model.state_dict(), checkpoint_id=tmp_path / "run")
    else:
        trained = {name: param.detach() for name, param in model.named_parameters()}
        write_zero3(tmp_path / "run", groups=[trained], ranks=3)
    source = open_source(tmp_path / "run", base=base)
    convert(Conversion(source=source, form=Form.hf, destination=tmp_path / "out"))
    found, wanted = (load_file(f / "model.safetensors") for f in (tmp_path / "out", base))
    assert_same(found, wanted)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    base = tmp_path / "hf"
    state = dict(write_llama(base).state_dict())
    norm, up = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
    changes: dict[str, tuple[Tensors, type[Exception], str]] = {
        "less": ({n: t for n, t in state.items() if n != norm}, ModelError, f"no tensor {norm}"),
        "more": (state | {f"{up}_scale": torch.ones(2)}, ModelError, f"a tensor {up}_scale"),
        "shape": (state | {up: torch.ones(3, 48)}, ModelError, rf"{up} .* has \[3, 48\]"),
        "type": (state | {up: state[up].to(torch.int8)}, CheckpointError, rf"{up} .* torch\.int8"),
        "two": (
            {f"{p}.{n}": t for p in ("ema", "model") for n, t in state.items()},
            CheckpointError,
            r"2 models, ema\., model\.",
        ),
        "other": ({"tok_embeddings.weight": torch.ones(2, 2)}, CheckpointError, "torchtitan"),
    }
    for name, (changed, kind, message) in changes.items():
        dcp.save(changed, checkpoint_id=tmp_path / name)
        with pytest.raises(kind, match=message):
            read(tmp_path / name, base=base)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "hf", **CASES["tied-gqa"])
    state = model.state_dict()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    dcp.save(state, checkpoint_id=tmp_path / "run")
    with pytest.raises(ModelError, match="must equal the embedding"):
        read(tmp_path / "run", base=tmp_path / "hf")
