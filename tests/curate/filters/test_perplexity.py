# SPDX-License-Identifier: Apache-2.0
"""What a model makes of a text, beside transformers' own loss."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from megacpt.curate.filters.perplexity import Perplexity
from megacpt.curate.filters.run import FilterStep
from megacpt.curate.filters.settings import FilterConfig, PerplexityConfig
from megacpt.errors import ModelError
from tests.curate.filters.cases import PROSE
from tests.vocabulary.small_models import write_model

TEXTS = [PROSE, "x", "def f(a):\n    return a\n" * 40, "Naïve 日本 🙂 " * 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("model")
    return folder, write_model(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_perplexity_is_transformers_loss(text: str, model: tuple[Path, Any]) -> None:
    folder, theirs = model
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:64]
    found = Perplexity(PerplexityConfig(model=str(folder), tokens=64)).perplexity(text)
    if len(ids) < 2:
        assert found is None
        return
    tokens_BS = torch.tensor([ids])
    with torch.no_grad():
        expected = math.exp(theirs(tokens_BS, labels=tokens_BS).loss)
    assert found == pytest.approx(expected, rel=1e-3)


def test_limits_leave_out_both_ends(model: tuple[Path, Any]) -> None:
    folder, _ = model
    value = Perplexity(PerplexityConfig(model=str(folder))).perplexity(PROSE)
    assert value is not None
    for limits, name in (
        ({"max": value - 1}, "perplexity_high"),
        ({"min": value + 1}, "perplexity_low"),
        ({"min": value - 1, "max": value + 1}, ""),
        ({}, ""),
    ):
        found = Perplexity(PerplexityConfig(model=str(folder), **limits))(PROSE)
        assert found.dropped == name
        if name:
            assert found.detail["value"] == value


def test_the_record_names_the_weights(model: tuple[Path, Any], tmp_path: Path) -> None:
    def said(folder: Path) -> Any:
        section = PerplexityConfig(model=str(folder))
        step = FilterStep(settings=FilterConfig(gopher=None, repetition=None, perplexity=section))
        assert step.threads_max > 1000  # One process, with all cores for the model.
        return step.to_json()["perplexity"]["model_fingerprint"]

    folder, _ = model
    write_model(tmp_path, initializer_range=0.2)
    assert said(folder) == said(folder) != said(tmp_path)


def test_a_folder_without_weights_is_refused(model: tuple[Path, Any], tmp_path: Path) -> None:
    for path in model[0].iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError):
        Perplexity(PerplexityConfig(model=str(tmp_path)))


@pytest.mark.slow
def test_a_real_model_knows_prose_from_noise(smollm2: Path) -> None:
    rule = Perplexity(PerplexityConfig(model=str(smollm2)))
    words = PROSE.split()
    random.Random(1).shuffle(words)
    values = [rule.perplexity(text) for text in (PROSE, " ".join(words), f"{PROSE} " * 8)]
    prose, shuffled, repeated = [value for value in values if value is not None]
    assert repeated < prose < shuffled / 5
