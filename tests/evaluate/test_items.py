# SPDX-License-Identifier: Apache-2.0
"""Scores of items, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.errors import CheckpointError
from megacpt.evaluate.items import Item, Scores, read_scores, write_scores


def scores_of(*items: Item) -> Scores:
    return Scores(suite="law", metric="acc", model="abc", items=items)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    scores = scores_of(Item(id="1", cluster="a", score=1.0), Item(id="2", cluster="a", score=0.25))
    write_scores(tmp_path / "law.jsonl", scores=scores)
    assert read_scores(tmp_path / "law.jsonl") == scores
    assert scores.mean == 0.625


def test_an_id_is_of_one_item() -> None:
    with pytest.raises(CheckpointError, match="law has two items with the id 1"):
        scores_of(Item(id="1", cluster="a", score=1.0), Item(id="1", cluster="b", score=1.0))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_is_a_number(score: float) -> None:
    with pytest.raises(CheckpointError, match=r"item 1 scored .* not finite"):
        scores_of(Item(id="1", cluster="a", score=score))


@pytest.mark.parametrize("content", ["", "{", '{"suite": "law"}\n', "[1]\n"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=r"x\.jsonl is no file of scores"):
        read_scores(tmp_path / "x.jsonl")
