# SPDX-License-Identifier: Apache-2.0
"""An unknown model is told from the families by what transformers has saved of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megacpt.errors import ModelError
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored import nearest as nearest_families
from megacpt.families.stored.nearest import MISSING, nearest
from megacpt.families.stored.nested import OUTER, SAME_AS
from tests.family_cases import Case, cases
from tests.multimodal_cases import write_parts

TEXTS = {outer: SAME_AS.get(text, text) for outer, text in OUTER.items()}
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


def defaults_of(model_type: str) -> dict[str, Any] | None:
    """What transformers would write of a model all of whose values are its own defaults; ``None``:
    it has none of some."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type]()
        return dict(json.loads(config.to_json_string(use_diff=False)))
    except (ValueError, TypeError, ImportError, AttributeError, StrictDataclassError):
        return None


HYBRIDS = {
    "bamba": "Mamba layers",
    "falcon_h1": "Mamba beside attention",
    "gemma4": "embeddings of each layer",
    "gemma4_text": "embeddings of each layer",
    "granitemoehybrid": "Mamba layers",
    "jamba": "Mamba layers",
    "kimi_linear": "delta attention",
    "lfm2": "short convolutions",
    "lfm2_vl": "short convolutions",
    "mamba2": "Mamba layers",
    "minimax": "lightning attention",
    "nemotron_h": "Mamba layers",
    "olmo_hybrid": "gated delta nets",
    "bart": "an encoder",
}


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_of_other_layers_one_sentence_says_what_is_missing(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(defaults_of(model_type)))
    said = f"is '{model_type}', for which megacpt lacks [^;]*{HYBRIDS[model_type]}"
    with pytest.raises(ModelError, match=said) as error:
        read_architecture(tmp_path)
    assert "\n" not in str(error.value)


NO_MODEL_BY_DEFAULT = {
    "deepseek_v2": "has no num_experts_per_tok",
    "glm4_moe": "hidden_size must be a multiple of 96 heads, but is 4096",
}
"""Families of which transformers' own defaults make no model."""


def family_or_error(folder: Path) -> str:
    try:
        return read_architecture(folder).family
    except ModelError as error:
        return str(error)


def outcomes_of(model_types: Iterable[str], *, folder: Path) -> dict[str, str]:
    outcomes = {}
    for model_type in model_types:
        if (stated := defaults_of(model_type)) is not None:
            (folder / "config.json").write_text(json.dumps(stated))
            outcomes[model_type] = family_or_error(folder)
    return outcomes


@pytest.mark.slow
def test_no_type_of_transformers_is_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that there are, trained or not."""
    from transformers import CONFIG_MAPPING

    # Which family is nearest is for those below.
    monkeypatch.setattr(nearest_families, "nearest", lambda config, families: None)
    outcomes = outcomes_of(list(CONFIG_MAPPING), folder=tmp_path)
    assert len(outcomes) > 0.99 * len(CONFIG_MAPPING)
    taken = {model_type for model_type, found in outcomes.items() if found in FAMILIES}
    known = FAMILIES.keys() | {outer for outer, text in TEXTS.items() if text in FAMILIES}
    assert known - taken == NO_MODEL_BY_DEFAULT.keys()
    assert taken <= known
    for model_type, why in NO_MODEL_BY_DEFAULT.items():
        assert why in outcomes[model_type]
    known_names = ", ".join(sorted(FAMILIES))
    for model_type in outcomes.keys() - known:
        assert f"model_type must be one of {known_names}, but is" in outcomes[model_type]


@pytest.mark.slow
def test_every_language_model_has_a_nearest_family_or_lacks_something(tmp_path: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    outcomes = outcomes_of(CAUSAL.keys() - FAMILIES.keys() - OUTER.keys(), folder=tmp_path)
    assert len(outcomes) > 100
    for said in outcomes.values():
        assert "for which megacpt lacks" in said or "Nearest to it is" in said
