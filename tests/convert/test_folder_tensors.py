# SPDX-License-Identifier: Apache-2.0
"""An export has the tensors of its base model's folder, in the form that they have there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.families import read_architecture
from megacpt.families.stored.fused import wholes
from tests.convert.test_export import export
from tests.family_cases.delta_mixtures import CASES
from tests.model.layout_runs import assert_same_tensors
from tests.multimodal_cases import write_parts

pytestmark = pytest.mark.mcore
STACKED = "model.layers.0.mlp.experts.gate_up_proj"


def write_next(folder: Path, *, stacked: bool) -> None:
    model = CASES["next-yarn"].write(folder)
    model.save_pretrained(folder, save_original_format=not stacked)


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_stay_in_one_tensor_or_apart(stacked: bool, tmp_path: Path, one_rank: None) -> None:
    write_next(tmp_path / "base", stacked=stacked)
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert (STACKED in base) is stacked
    output = export(tmp_path / "base", tmp_path / "hf")
    assert_same_tensors(load_file(output / "model.safetensors"), base)


def test_stacked_experts_beside_layers_that_predict_further_ahead(
    tmp_path: Path, one_rank: None
) -> None:
    """Qwen3.5-35B-A3B as it lies on the hub: the experts of ``mtp`` alone are apart."""
    write_parts(tmp_path / "base", case="qwen3_5_moe-stacked")
    path = tmp_path / "base" / "model.safetensors"
    further = {
        f"mtp.layers.0.mlp.experts.{n}.{name}_proj.weight": torch.randn(3, 2)
        for n in range(2)
        for name in ("gate", "up")
    }
    tensors = load_file(path) | further
    assert "model.language_model.layers.0.mlp.experts.down_proj" in tensors
    save_file(tensors, path, metadata={"format": "pt"})
    written = load_file(export(tmp_path / "base", tmp_path / "hf") / "model.safetensors")
    assert_same_tensors(written, tensors)


def test_where_no_weights_are_they_are_as_most_folders_have_them(tmp_path: Path) -> None:
    write_next(tmp_path, stacked=True)
    (tmp_path / "model.safetensors").unlink()
    names: dict[str, Any] = wholes(read_architecture(tmp_path))
    assert "model.layers.0.mlp.experts.5.down_proj.weight" in names
    assert STACKED not in names
    assert "model.layers.0.linear_attn.conv1d.weight" in names
