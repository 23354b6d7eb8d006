# SPDX-License-Identifier: Apache-2.0
"""A model stretched on purpose is the one that transformers reads from the export's config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import Dtype, RopeConfig, RopeKind
from megacpt.convert.described import model_config
from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.hf_config import HfConfig
from tests.families.test_families import LLAMA, folder_with
from tests.family_cases import cases
from tests.llama_cases import LLAMA3_ROPE

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize("kind", list(RopeKind))
@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"rope_scaling": LLAMA3_ROPE},
        {"rope_parameters": {**YARN, "rope_theta": 5e5}},
        {"model_type": "ministral3", "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.2}},
        {"model_type": "smollm3"},
        {"model_type": "llama4_text"},
    ],
    ids=str,
)
def test_an_export_states_the_rope_of_the_run(
    kind: RopeKind, stated: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    base = folder_with(tmp_path, LLAMA | stated)
    rope = RopeConfig(kind=kind, factor=16.0, original_max_positions=64, theta=3e5)
    ours = read_architecture(base, rope=rope)
    out = tmp_path / "out"
    out.mkdir()
    written = model_config(HfConfig.read(base), architecture=ours, dtype=Dtype.fp32)
    (out / "config.json").write_text(json.dumps(written))
    again = read_architecture(out)
    assert again == ours
    read = AutoConfig.from_pretrained(out)
    assert (read.max_position_embeddings, read.rope_parameters["rope_theta"]) == (1024, 3e5)
    assert read.rope_parameters["rope_type"] == kind.name
    if kind is not RopeKind.default:
        _, factor = ROPE_INIT_FUNCTIONS[kind.name](read, None)
        assert ours.rope.attention_factor == pytest.approx(factor)
    if kind in (RopeKind.yarn, RopeKind.llama3):
        assert read.rope_parameters["original_max_position_embeddings"] == 64
    if ours.query_growth is not None and not ours.query_growth.unrotated:
        assert ours.query_growth.original_max_positions == 64
        assert read.rope_parameters["llama_4_scaling_beta"] == 0.2


def test_the_length_is_that_before_the_model_was_stretched(tmp_path: Path) -> None:
    plain = folder_with(tmp_path, LLAMA)
    longest = read_architecture(plain).max_positions
    assert read_architecture(plain, rope=RopeConfig(factor=2.0)).max_positions == 2 * longest
    stretched = folder_with(tmp_path, LLAMA | {"rope_scaling": YARN})
    assert read_architecture(stretched, rope=RopeConfig(factor=8.0)).max_positions == 1024


def test_a_model_is_not_made_shorter(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, LLAMA | {"rope_scaling": YARN, "max_position_embeddings": 512})
    with pytest.raises(ModelError, match=r"factor=2 gives 256 .* use 4 or more"):
        read_architecture(folder, rope=RopeConfig(factor=2.0))


def test_phi_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, LLAMA | {"model_type": "phi3", "rope_scaling": None})
    with pytest.raises(ModelError, match=r"model\.rope=yarn is not there for phi3"):
        read_architecture(folder, rope=RopeConfig(factor=2.0))


def test_latent_attention_is_refused(tmp_path: Path) -> None:
    cases()["deepseek-v3"].write(tmp_path)
    with pytest.raises(ModelError, match=r"model\.rope=yarn is not there for deepseek_v3"):
        read_architecture(tmp_path, rope=RopeConfig(factor=2.0))
