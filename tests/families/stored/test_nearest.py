# SPDX-License-Identifier: Apache-2.0
"""An unknown model is told from the families by what transformers has saved of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nearest import MISSING, nearest
from tests.family_cases import Case, cases
from tests.multimodal_cases import write_parts

FIRST = {case.model_type: name for name, case in reversed(cases().items())}


def renamed(folder: Path, **changes: Any) -> HfConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return HfConfig.read(folder)


@pytest.mark.parametrize("model_type", FIRST)
def test_a_family_by_another_name_is_nearest_to_itself(model_type: str, tmp_path: Path) -> None:
    cases()[FIRST[model_type]].write(tmp_path)
    config = renamed(tmp_path, model_type="unheard_of")
    own = nearest(config, families={model_type: FAMILIES[model_type]})
    found = nearest(config, families=FAMILIES)
    assert own is not None
    assert found is not None
    assert (own.refused, own.extra, own.missing) == ((), (), ())
    assert found.size <= own.size
    assert (found.extra, found.missing) == ((), ())


def difference(
    folder: Path, *, model_type: str, changes: Mapping[str, Any] | None = None
) -> tuple[str, list[str]]:
    Case(model_type=model_type, changes=changes or {}).write(folder)
    found = nearest(renamed(folder, model_type="unheard_of"), families=LLAMA_AND_QWEN)
    assert found is not None
    return found.family, list(found.lines())


LLAMA_AND_QWEN = {name: FAMILIES[name] for name in ("llama", "qwen2", "qwen3", "mixtral")}
"""Those that will not move when families are added."""
LAYER = "weights: model.layers.*"


def test_olmo_2_has_its_norms_elsewhere(tmp_path: Path) -> None:
    assert difference(tmp_path, model_type="olmo2") == (
        "qwen3",
        [
            f"{LAYER}.post_feedforward_layernorm.weight has no place",
            f"{LAYER}.input_layernorm.weight is not there",
        ],
    )


def test_phi_3_fuses_what_llama_has_apart(tmp_path: Path) -> None:
    family, lines = difference(tmp_path, model_type="phi3")
    assert family == "llama"
    assert f"{LAYER}.self_attn.qkv_proj.weight has no place" in lines
    assert f"{LAYER}.self_attn.q_proj.weight is not there" in lines


def test_stablelm_turns_a_part_of_each_head(tmp_path: Path) -> None:
    family, lines = difference(tmp_path, model_type="stablelm", changes={"use_qkv_bias": True})
    assert family == "qwen2"
    assert "config.json: partial_rotary_factor must be 1.0, but is 0.25" in lines
    assert "config.json: layer_norm_eps=1e-05 is not read" in lines
    assert f"{LAYER}.input_layernorm.bias has no place" in lines


def test_the_error_says_it_and_ends(tmp_path: Path) -> None:
    Case(model_type="llama").write(tmp_path)
    renamed(tmp_path, model_type="unheard_of", **{f"key_{n}": n for n in range(1, 10)})
    with pytest.raises(ModelError) as error:
        read_architecture(tmp_path)
    first, *differing, last = str(error.value).split("\n")
    assert "but is 'unheard_of'. Nearest to it is" in first
    assert "  config.json: key_1=1 is not read" in differing
    assert (len(differing), differing[-1]) == (9, "  and 1 more")
    assert last == "Use a model of these families, or add its own (docs/models.md)."


def test_of_a_model_of_several_parts_the_text_is_compared(tmp_path: Path) -> None:
    write_parts(tmp_path, case="llava-mistral")
    config = renamed(tmp_path, model_type="unheard_of")
    found = nearest(config, families=FAMILIES)
    assert found is not None
    assert (found.extra, found.missing) == ((), ())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "falcon_h1"}')
    with pytest.raises(ModelError, match=r"'falcon_h1', for which megacpt lacks Mamba beside att"):
        read_architecture(tmp_path)


def test_those_that_are_refused_by_name_are_types_of_transformers_and_no_families() -> None:
    from transformers import CONFIG_MAPPING

    assert MISSING.keys() <= set(CONFIG_MAPPING.keys())
    assert not MISSING.keys() & FAMILIES.keys()
