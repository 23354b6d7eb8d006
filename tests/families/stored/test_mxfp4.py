# SPDX-License-Identifier: Apache-2.0
"""Folders of four-bit numbers: found as the model's tensors, or refused with what is the matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.stored.places import find_places, storage_notes
from tests.mxfp4_cases import stored, write_four_bits, write_in_two_files

Tensors = dict[str, torch.Tensor]
UP = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four-bits")
    write_four_bits(folder)
    return folder


def test_what_is_found_is_said(written: Path) -> None:
    architecture = read_architecture(written)
    places = find_places(written, architecture=architecture)
    part = places["model.layers.1.mlp.experts.2.up_proj.weight"].part
    assert (part.name, part.scales) == (f"{UP}_blocks", f"{UP}_scales")
    assert (part.index, part.start, part.group, part.transposed) == (2, 1, 2, False)
    assert places["model.layers.1.mlp.experts.2.up_proj.bias"].part.scales is None
    files = {(p.file.name, p.scales_file.name) for p in places.values() if p.scales_file}
    assert any(blocks != scales for blocks, scales in files)
    (note,) = storage_notes(written, architecture=architecture)
    # Four layers of four experts of three matrices.
    assert f"{4 * 4 * 3 * 64 * 32 / 1000:.1f}k values in" in note
    assert "four-bit numbers (MXFP4)" in note
    assert "leaves quantization_config out" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{UP}_scales"), rf"no tensor {UP}_scales, without which {UP}_blocks can"),
        (lambda t: t.pop(f"{UP}_blocks"), r"has no tensor model.layers.1.mlp.experts.0.gate_proj"),
        (
            lambda t: t.update({f"{UP}_scales": t[f"{UP}_scales"].to(torch.int8)}),
            rf"{UP}_scales in .* must be of type U8, but is I8, as config.json says: quantiz",
        ),
        (
            lambda t: t.update({f"{UP}_scales": t[f"{UP}_scales"][..., :1].contiguous()}),
            rf"{UP}_scales in .* must have shape \[4, 64, 2\], which .* but has \[4, 64, 1\]",
        ),
        (
            lambda t: t.update({f"{UP}_blocks": t[f"{UP}_blocks"].flatten(2)}),
            rf"{UP}_blocks in .* must have shape \[4, 64, 2, 16\], .* but has \[4, 64, 32\]",
        ),
    ],
)
def test_what_does_not_fit(
    change: Callable[[Tensors], object], message: str, written: Path, tmp_path: Path
) -> None:
    tensors = stored(written)
    change(tensors)
    write_in_two_files(tensors, folder=tmp_path)
    (tmp_path / "config.json").write_text((written / "config.json").read_text())
    with pytest.raises(ModelError, match=message):
        find_places(tmp_path, architecture=read_architecture(tmp_path))
