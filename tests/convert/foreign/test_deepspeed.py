# SPDX-License-Identifier: Apache-2.0
"""Weights out of DeepSpeed's files are those that were trained, whoever held which part of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megacpt.errors import CheckpointError, ModelError
from tests.convert.foreign.zero_files import Tensors, write_zero2, write_zero3
from tests.llama_cases import CASES, write_llama

pytestmark = pytest.mark.mcore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder in fp32."""
    folder = tmp_path_factory.mktemp("model")
    write_llama(folder, **CASES["head-dim-attention-bias"], num_hidden_layers=2)
    return folder


def weights(model: Path) -> Tensors:
    return load_file(model / "model.safetensors")


def groups_of(tensors: Tensors) -> list[Tensors]:
    """With weight decay and without."""
    return [{name: t for name, t in tensors.items() if t.dim() == dims} for dims in (2, 1)]


def read(folder: Path, *, base: Path) -> Tensors:
    from megacpt.convert.opened import open_source

    source = open_source(folder, base=base)
    return {
        name: torch.cat([t.rows(0, count=1), t.rows(1, count=t.shape[0] - 1)])
        for name, t in source.tensors.items()
    }


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    assert [n for n in found if not torch.equal(found[n], expected[n])] == []


@pytest.mark.parametrize("ranks", [1, 3])
def test_stage_3(tmp_path: Path, model: Path, ranks: int) -> None:
    tensors = weights(model)
    write_zero3(tmp_path / "run/global_step2", groups=groups_of(tensors), ranks=ranks)
    (tmp_path / "run/latest").write_text("global_step2")
    assert_same(read(tmp_path / "run", base=model), tensors)


def test_stage_2(tmp_path: Path, model: Path) -> None:
    tensors = weights(model)
    write_zero2(tmp_path / "zero", groups=groups_of(tensors), ranks=3)
    assert_same(read(tmp_path / "zero", base=model), tensors)


def test_frozen_and_shared_weights(tmp_path: Path, model: Path) -> None:
    tensors = weights(model)
    frozen = {n: t for n, t in tensors.items() if ".layers.0." in n}
    trained = {n: t for n, t in tensors.items() if n not in frozen and n != "lm_head.weight"}
    shared = {"lm_head.weight": "model.embed_tokens.weight"}
    folder = tmp_path / "zero"
    write_zero3(folder, groups=groups_of(trained), ranks=2, frozen=frozen, shared=shared)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    assert_same(read(folder, base=model), tensors | head)


def test_what_is_missing_is_named(tmp_path: Path, model: Path) -> None:
    tensors = weights(model)
    without = {n: t for n, t in tensors.items() if "1.mlp.up_proj" not in n}
    write_zero3(tmp_path / "less", groups=groups_of(without), ranks=2)
    with pytest.raises(ModelError, match=r"has no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        read(tmp_path / "less", base=model)
    folder = tmp_path / "zero"
    write_zero3(folder, groups=groups_of(tensors), ranks=3)
    last, first = (folder / f"bf16_zero_pp_rank_{n}_mp_rank_00_optim_states.pt" for n in (2, 0))
    kept = last.read_bytes()
    last.unlink()
    with pytest.raises(CheckpointError, match=r"optimizer states of 3 ranks .* but has 2"):
        read(folder, base=model)
    last.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(last))} is not whole"):
        read(folder, base=model)
    last.write_bytes(kept)
    first.unlink()
    with pytest.raises(CheckpointError, match=r"no .*_optim_states.pt of rank 0"):
        read(folder, base=model)


def test_another_order_of_values_is_refused(tmp_path: Path, model: Path) -> None:
    """Each parameter would get its neighbour's values."""
    groups = groups_of(weights(model))
    write_zero3(tmp_path / "zero", groups=[{"extra": torch.ones(5)}, *groups], ranks=2)
    write_zero3(tmp_path / "named", groups=groups, ranks=2)
    for rank in range(2):
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        (tmp_path / "named" / name).rename(tmp_path / "zero" / name)
    with pytest.raises(CheckpointError, match=r"take .* values of a rank, but .* hold"):
        read(tmp_path / "zero", base=model)


def test_a_model_that_was_cut_is_refused(tmp_path: Path, model: Path) -> None:
    write_zero3(tmp_path / "zero", groups=groups_of(weights(model)), ranks=1)
    first = tmp_path / "zero/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    first.rename(first.with_name("bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt"))
    with pytest.raises(CheckpointError, match=r"model that was cut .* zero_to_fp32.py"):
        read(tmp_path / "zero", base=model)
