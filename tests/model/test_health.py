# SPDX-License-Identifier: Apache-2.0
"""Each kind of damage is found, named, and stops the run unless it is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.hugging_face import HuggingFaceBackend
from tests.llama_cases import CASES, VOCAB_SIZE, write_llama

pytestmark = pytest.mark.mcore
Tensors = dict[str, torch.Tensor]
TOKENIZER = Tokenizer(
    folder=Path("unused"),
    vocab_size=VOCAB_SIZE,
    eos_id=0,
    pad_id=None,
    bos_id=None,
    fingerprint="",
    backend=HuggingFaceBackend(
        b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}', path=Path("unused")
    ),
)


def check(folder: Path, tokenizer: Tokenizer = TOKENIZER) -> list[tuple[str, bool]]:
    from megacpt.model import health

    findings = health.check(folder, architecture=read_architecture(folder), tokenizer=tokenizer)
    return [(str(finding), finding.blocks) for finding in findings]


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", CASES)
def test_a_sound_model_has_no_findings(case: str, tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path, **CASES[case])
    assert check(tmp_path) == []


def poison(tensors: Tensors) -> None:
    tensors["model.norm.weight"][3] = float("nan")
    tensors["model.norm.weight"][4] = float("inf")


def blank_one(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"][7] = 0.0


def blank_many(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"][10:40] *= 1e-5


def copy_some(tensors: Tensors) -> None:
    tensors["lm_head.weight"][[9, 30, 12]] = tensors["lm_head.weight"][5].clone()


def mix(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "finding", "blocks"),
    [
        (poison, "model.norm.weight: 2 of 48 values are NaN or infinite", True),
        (blank_one, "model.embed_tokens.weight: 1 rows (7) are near zero", False),
        (blank_many, "30 rows (10, 11, 12, 13, 14, ...) are near zero", True),
        (copy_some, "lm_head.weight: 4 rows (5, 9, 12, 30) are exact copies of others", False),
        (mix, "types torch.bfloat16, torch.float32 are mixed", False),
    ],
)
def test_damaged_weights(
    change: Callable[[Tensors], object],
    finding: str,
    blocks: bool,
    tmp_path: Path,
    one_rank: None,
) -> None:
    write_llama(tmp_path)
    edit(tmp_path, change)
    ((found, found_blocks),) = check(tmp_path)
    assert finding in found
    assert found_blocks is blocks


@pytest.mark.parametrize(
    ("tokenizer", "finding", "blocks"),
    [
        (replace(TOKENIZER, vocab_size=132), "tokenizer.vocab_size=132 exceeds", True),
        (replace(TOKENIZER, eos_id=None), "tokenizer.eos_id is not stated", True),
        (replace(TOKENIZER, pad_id=0), "tokenizer.pad_id=0 equals eos_id", False),
        (replace(TOKENIZER, eos_id=5), "differs from config.json's eos_token_id=0", False),
    ],
)
def test_a_tokenizer_that_does_not_fit(
    tokenizer: Tokenizer, finding: str, blocks: bool, tmp_path: Path, one_rank: None
) -> None:
    write_llama(tmp_path)
    ((found, found_blocks),) = check(tmp_path, tokenizer)
    assert finding in found
    assert found_blocks is blocks


@pytest.mark.parametrize(
    ("config", "generation", "fits"),
    [
        ({"eos_token_id": [7, 5]}, {}, True),
        ({"eos_token_id": [7, 8, 9, 5]}, {}, True),
        ({"eos_token_id": 7}, {"eos_token_id": [7, 5]}, True),
        ({"eos_token_id": None}, {"eos_token_id": 5}, True),
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 9}, False),
    ],
)
def test_the_tokenizer_s_end_may_be_any_of_the_model_s(
    config: dict[str, object],
    generation: dict[str, object],
    fits: bool,
    tmp_path: Path,
    one_rank: None,
) -> None:
    from transformers import AutoModelForCausalLM

    write_llama(tmp_path)
    for name, changes in (("config.json", config), ("generation_config.json", generation)):
        stated = json.loads((tmp_path / name).read_text())
        stated.pop("eos_token_id")
        (tmp_path / name).write_text(json.dumps(stated | changes))
    found = check(tmp_path, replace(TOKENIZER, eos_id=5))
    assert (found == []) is fits
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    stops = {*as_list(model.config.eos_token_id), *as_list(model.generation_config.eos_token_id)}
    assert (5 in stops) is fits
    if not fits:
        assert "differs from config.json's eos_token_id=7 or 8 or 9; check" in found[0][0]


def as_list(ids: object) -> list[object]:
    return ids if isinstance(ids, list) else [ids]


def test_rows_past_the_tokenizer_are_filler(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    edit(tmp_path, blank_many)
    assert check(tmp_path, replace(TOKENIZER, vocab_size=10)) == []


def test_a_shape_that_does_not_fit_is_an_error_at_once(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    edit(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(ModelError, match=r"model.norm.weight in .* must have shape \[48\]"):
        check(tmp_path)


def test_blocking_findings_raise_unless_allowed(one_rank: None) -> None:
    from megacpt.model.health import Finding, require_healthy

    note = Finding(subject="a", rule="is odd", remedy="look", blocks=False)
    worse = Finding(subject="b=1", rule="is broken", remedy="fix it", blocks=True)
    require_healthy([note], folder=Path("m"), allow_unhealthy=False)
    require_healthy([note, worse], folder=Path("m"), allow_unhealthy=True)
    with pytest.raises(ModelError, match=r"m is not healthy .*\n  1. b=1 is broken; fix it."):
        require_healthy([note, worse], folder=Path("m"), allow_unhealthy=False)
