# SPDX-License-Identifier: Apache-2.0
"""What a path names is found out, or it is said what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.convert.conversion import Conversion, Form, convert
from megacpt.convert.opened import open_source
from megacpt.errors import CheckpointError, ModelError
from tests.llama_cases import write_llama


@pytest.fixture
def native(tmp_path: Path) -> Path:
    write_llama(tmp_path / "base")
    source = open_source(tmp_path / "base")
    convert(Conversion(source=source, form=Form.native, destination=tmp_path / "native"))
    return tmp_path / "native"


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"void does not exist: a Hugging Face folder \("):
        open_source(tmp_path / "void")
    with pytest.raises(ModelError, match="is none of these: a Hugging Face folder"):
        open_source(tmp_path)


def test_a_checkpoint_that_lies_alone_needs_its_base(native: Path, tmp_path: Path) -> None:
    shutil.rmtree(native / "hf")
    with pytest.raises(CheckpointError, match=r"it lies without its run\); name .* --base FOLDER"):
        open_source(native)


def test_the_model_of_another_shape(native: Path, tmp_path: Path) -> None:
    write_llama(tmp_path / "other", hidden_size=96)
    with pytest.raises(CheckpointError, match="is of another model: its hidden_size is 48"):
        open_source(native, base=tmp_path / "other")


def test_a_run_s_other_rotary_positions_are_not_its_model_s(tmp_path: Path) -> None:
    """A folder that states what the run has set is the same model."""
    write_llama(tmp_path / "base", max_position_embeddings=64)
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    write_llama(
        tmp_path / "long",
        max_position_embeddings=128,
        rope_parameters={**yarn, "rope_theta": 10000.0},
    )
    long = open_source(tmp_path / "long")
    folder = tmp_path / "run" / "checkpoints" / "step_00000001"
    convert(Conversion(source=long, form=Form.native, destination=folder))
    with pytest.raises(CheckpointError, match="its max_positions is 128, the base model's is 64"):
        open_source(folder, base=tmp_path / "base")
    (tmp_path / "run" / "run.yaml").write_text("model: {rope: {kind: yarn, factor: 2.0}}")
    assert open_source(folder, base=tmp_path / "base").architecture == long.architecture


def test_tensors_that_the_config_does_not_ask_for(native: Path, tmp_path: Path) -> None:
    """The manifest says nothing of it, as one of an older megacpt would not."""
    config = json.loads((native / "hf" / "config.json").read_text())
    forget_the_architecture(native)
    for change, said in (
        ({"attention_bias": True}, "has no tensor decoder.layers.self_attention.linear_qkv.bias"),
        ({"tie_word_embeddings": True}, "has a tensor output_layer.weight that config.json gives"),
        ({"intermediate_size": 80}, r"mlp.linear_fc1.weight in .* must have shape \[4, 160, 48\]"),
    ):
        (native / "hf" / "config.json").write_text(json.dumps(config | change))
        sign_again(native)
        with pytest.raises(CheckpointError, match=said):
            open_source(native)


def forget_the_architecture(folder: Path) -> None:
    from dataclasses import replace

    replace(CheckpointManifest.read(folder), architecture={}).write(folder)


def sign_again(folder: Path) -> None:
    from dataclasses import replace

    from megacpt.checkpoint.verify import sums_of

    replace(CheckpointManifest.read(folder), files=sums_of(folder)).write(folder)
