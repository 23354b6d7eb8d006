# SPDX-License-Identifier: Apache-2.0
"""Fill in the middle against the paper's formulas, and how often what is drawn."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from megacpt.curate.rewrite.fill import cuts, move_middle, require_tokens
from megacpt.curate.rewrite.settings import FillConfig
from megacpt.errors import ConfigError
from tests.corpus.cases import TINY

TEXT = "def add(a, b):\n    return a + b  # naïve 日本\r\n"
IDS = [f"file {n}" for n in range(4000)]


def config(**more: Any) -> FillConfig:
    given = {"prefix": "<PRE>", "suffix": "<SUF>", "middle": "<MID>"}
    return FillConfig(**{"sources": "code", "tokenizer": "x", **given, **more})


def test_both_orders_are_those_of_the_paper() -> None:
    """Section 3 of arXiv 2207.14255; what is filled in gives the text that was cut."""
    psm = re.compile(r"<PRE>(?P<prefix>.*)<SUF>(?P<suffix>.*)<MID>(?P<middle>.*)", re.DOTALL)
    # "<PRE> <SUF> suffix <MID> prefix middle": where the prefix ends is told by the cut alone.
    spm = re.compile(r"<PRE><SUF>(?P<suffix>.*)<MID>(?P<both>.*)", re.DOTALL)
    orders = Counter[str]()
    for id in IDS:
        order, text = move_middle(TEXT, id=id, settings=config(rate=1.0))
        prefix, middle, suffix = cuts(TEXT, id=id, seed=0)
        assert prefix + middle + suffix == TEXT
        found = (psm if order == "psm" else spm).fullmatch(text)
        assert found is not None
        assert found["suffix"] == suffix
        if order == "psm":
            assert (found["prefix"], found["middle"]) == (prefix, middle)
        else:
            assert found["both"] == prefix + middle
        orders[order] += 1
    # Binomial, n = 4000: four standard deviations are 127.
    assert abs(orders["spm"] - 2000) < 127


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.9, 1.0])
def test_the_share_of_documents(rate: float) -> None:
    found = [move_middle(TEXT, id=id, settings=config(rate=rate)) for id in IDS]
    kept = [one for one in found if one.order == "kept"]
    assert all(one.text == TEXT for one in kept)
    assert abs(len(kept) - 4000 * (1 - rate)) <= 4 * (4000 * rate * (1 - rate)) ** 0.5


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_one_order_alone(spm_rate: float) -> None:
    settings = config(rate=1.0, spm_rate=spm_rate)
    orders = {move_middle(TEXT, id=id, settings=settings).order for id in IDS}
    assert orders == {"spm" if spm_rate else "psm"}


def test_cuts_are_two_even_draws() -> None:
    """Chi-square over the pairs of two independent draws among 4 places, sorted."""
    text, num = "abc", 16000
    found = Counter(cuts(text, id=str(n), seed=3) for n in range(num))
    chi_square = 0.0
    for start in range(4):
        for stop in range(start, 4):
            expected = num * (1 if start == stop else 2) / 16
            seen = found[text[:start], text[start:stop], text[stop:]]
            chi_square += (seen - expected) ** 2 / expected
    # 9 degrees of freedom: above 28 once in 1000 seeds.
    assert chi_square < 28


def test_what_is_drawn_depends_on_id_and_seed_alone() -> None:
    settings = config()
    first = [move_middle(TEXT, id=id, settings=settings) for id in IDS]
    assert [move_middle(TEXT, id=id, settings=settings) for id in reversed(IDS)] == first[::-1]
    assert [move_middle(TEXT, id=id, settings=config(seed=1)) for id in IDS] != first


def test_a_text_that_holds_a_token_stays() -> None:
    found = move_middle("a <MID> b", id="x", settings=config(rate=1.0))
    assert (found.order, found.text) == ("marked", "a <MID> b")


def with_tokens(folder: Path, *tokens: str) -> Path:
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY / "tokenizer.json"))
    tokenizer.add_special_tokens(list(tokens))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_tokenizer_that_changes_blanks_beside_its_tokens_is_told(tmp_path: Path) -> None:
    folder = with_tokens(tmp_path / "all", "<PRE>", "<SUF>")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([tokenizers.AddedToken("<MID>", rstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    told = list[str]()
    require_tokens(config(tokenizer=str(folder)), notice=told.append)
    assert len(told) == 1
    assert "changes blanks beside <MID>: of 'x\\n <MID>\\n y' it makes 'x\\n <MID>y'" in told[0]


def test_tokens_must_be_the_tokenizer_s(tmp_path: Path) -> None:
    path = str(with_tokens(tmp_path / "all", "<PRE>", "<SUF>", "<MID>"))
    told = list[str]()
    assert require_tokens(config(tokenizer=path), notice=told.append)
    assert told == []
    path = str(with_tokens(tmp_path / "two", "<PRE>", "<SUF>"))
    with pytest.raises(ConfigError, match=r"fill_in_the_middle.middle=<MID> is no token of .*5"):
        require_tokens(config(tokenizer=path))
    with pytest.raises(ConfigError, match="must be three tokens"):
        require_tokens(config(tokenizer=path, middle="<SUF>"))
