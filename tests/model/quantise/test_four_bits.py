# SPDX-License-Identifier: Apache-2.0
"""Four-bit numbers against those that transformers makes of the same bytes, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from megacpt.cli import main
from megacpt.families import read_architecture
from megacpt.model.hf_tensors import HfTensors
from megacpt.model.quantise.four_bits import decoded
from tests.mxfp4_cases import stored, write_four_bits

Tensors = dict[str, torch.Tensor]

EVERY = torch.arange(256, dtype=torch.uint8)


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.int16)


def test_every_byte_with_every_scale() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    bytes_ERGB = EVERY.view(1, 1, 16, 16).repeat(1, 256, 1, 1)
    scales_ERG = EVERY.view(1, 256, 1).repeat(1, 1, 16)
    theirs = convert_moe_packed_tensors(bytes_ERGB, scales_ERG)[0].t()
    ours = decoded(bytes_ERGB[0], scales_RG=scales_ERG[0])
    assert ours.dtype == torch.bfloat16
    assert torch.equal(bits(ours), bits(theirs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four-bits")
    write_four_bits(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM, Mxfp4Config

    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.bfloat16
    )
    return {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}


def assert_same_bits(ours: Mapping[str, torch.Tensor], *, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.bfloat16
        assert torch.equal(bits(ours[name]), bits(tensor)), name


@pytest.mark.mcore
def test_conversions_are_what_transformers_makes_of_it(
    folder: Path, theirs: Tensors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a folder at once, and by way of a native checkpoint."""
    direct, native, back = (tmp_path / name for name in ("direct", "native", "back"))
    for source, form, destination in (
        (folder, "hf", direct),
        (folder, "native", native),
        (native, "hf", back),
    ):
        assert main(["convert", str(source), str(destination), "--to", form]) == 0
        said = "98.3k values were four-bit numbers (MXFP4), and are plain ones now"
        assert (said in capsys.readouterr().out) == (source == folder)
    for made in (direct, back):
        assert_same_bits(stored(made), theirs=theirs)
        stated = json.loads((made / "config.json").read_text())
        assert "quantization_config" not in stated
        assert stated["dtype"] == "bfloat16"


@pytest.mark.mcore
def test_what_is_trained_is_what_transformers_makes_of_it(
    folder: Path, theirs: Tensors, one_rank: None
) -> None:
    from tests.model.on_one_rank import exported, loaded

    model, architecture = loaded(folder)
    found = exported([model], architecture=architecture, folder=folder)
    assert_same_bits({name: t.bfloat16() for name, t in found.items()}, theirs=theirs)


def test_slices_are_those_of_the_whole(folder: Path) -> None:
    tensors = HfTensors.of_folder(folder, architecture=read_architecture(folder))
    for matrix in ("gate_proj", "down_proj"):
        name = f"model.layers.2.mlp.experts.1.{matrix}.weight"
        whole = tensors.read(name)
        for dim in (0, 1):
            part = tensors.read(name, dim=dim, span=slice(3, 17))
            assert torch.equal(part, whole.narrow(dim, 3, 14))
