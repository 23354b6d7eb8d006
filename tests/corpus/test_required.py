# SPDX-License-Identifier: Apache-2.0
"""What a run may demand of its text, and what a record answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.corpus.curation import CurationStep, TextOrigin, curated
from megacpt.corpus.required import common, lacking, unknown
from tests.corpus.curated import SUITES, decontaminated, step, write_curated

IDENTITY = SUITES["mmlu"]["identity"]


def origin(folder: Path, *steps: CurationStep) -> TextOrigin:
    write_curated(folder, steps)
    (found,) = curated([str(folder / "law" / "00000.jsonl")]).origins
    return found


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (None, []),
        ("none", []),
        ("deduplicated", []),
        (" deduplicated , decontaminated ", []),
        ("decontaminated:mmlu", []),
        (f"decontaminated:{IDENTITY}", []),
        ("decontaminated:gsm8k, filtered", ["decontaminated:gsm8k", "filtered"]),
        ("decontaminated:mml", ["decontaminated:mml"]),
    ],
)
def test_what_is_missing(text: str | None, missing: list[str], tmp_path: Path) -> None:
    found = origin(tmp_path / "a", step("deduplicate", "law"), decontaminated("law"))
    assert lacking(text, origins=[found]) == missing


def test_a_step_that_left_the_source_alone_does_not_count(tmp_path: Path) -> None:
    found = origin(tmp_path / "a", step("deduplicate", "web"), step("filter", "law"))
    assert lacking("deduplicated, filtered", origins=[found]) == ["deduplicated"]


def test_hits_that_were_only_reported_are_still_there(tmp_path: Path) -> None:
    found = origin(tmp_path / "a", decontaminated("law", action="report"))
    words = ["decontaminated", "decontaminated:mmlu"]
    assert lacking(", ".join(words), origins=[found]) == words


def test_all_of_the_text_must_have_been_through_it(tmp_path: Path) -> None:
    whole = origin(tmp_path / "a", step("deduplicate", "law"), decontaminated("law"))
    part = origin(tmp_path / "b", step("deduplicate", "law"))
    assert lacking("deduplicated, decontaminated", origins=[whole, part]) == ["decontaminated"]
    assert common([whole, part]) == ["deduplicated"]
    assert common([whole]) == ["deduplicated", "decontaminated", "decontaminated:mmlu"]
    # Of text without a record nothing is known.
    assert lacking("deduplicated", origins=[]) == ["deduplicated"]
    assert common([]) == []


def test_words_that_no_step_makes_true() -> None:
    text = "deduplicated, dedup, filtered:c4, decontaminated:, decontaminated:a"
    assert unknown(text) == ["dedup", "filtered:c4", "decontaminated:"]
