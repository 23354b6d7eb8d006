# SPDX-License-Identifier: Apache-2.0
"""Items from files in the forms that benchmarks come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from megacpt.curate.decontaminate.items import ItemSuite, SuiteItem
from megacpt.curate.decontaminate.settings import SuiteConfig
from megacpt.curate.decontaminate.suites import read_suite
from megacpt.errors import DataError
from tests.corpus.cases import write_jsonl

SKY = SuiteItem(question=("Why is it blue?",), answer=("light",), options=("paint", "light"))
MMLU = [
    {"question": "Why is it blue?", "subject": "sky", "choices": ["paint", "light"], "answer": 1}
]


def read(path: Path | str, **settings: Any) -> ItemSuite:
    return read_suite("sky", settings=SuiteConfig(path=str(path), **settings))


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_lines_rows_and_arrays_are_the_same(tmp_path: Path) -> None:
    parquet.write_table(arrow.Table.from_pylist(MMLU), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(MMLU, indent=1))
    for path in (lines(tmp_path / "a.jsonl", MMLU), tmp_path / "a.json", tmp_path / "a.parquet"):
        assert read(path).items == (SKY,)


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        # AI2's ARC, HellaSwag, and a nested answer as TriviaQA has it.
        (
            {"q": "Why is it blue?", "choices": {"text": ["paint", "light"], "label": ["A", "B"]}}
            | {"answerKey": "B"},
            {"question": "q", "answer": "answerKey"},
        ),
        (
            {"ctx": "Why is it blue?", "endings": ["paint", "light"], "label": "1"},
            {"question": "ctx", "options": "endings", "answer": "label"},
        ),
        (
            {"question": "Why is it blue?", "choices": ["paint", "light"]}
            | {"answer": {"value": "light"}},
            {"answer": "answer.value"},
        ),
    ],
)
def test_fields_are_named(tmp_path: Path, record: dict[str, Any], settings: dict[str, str]) -> None:
    assert read(lines(tmp_path / "a.jsonl", [record]), **settings).items == (SKY,)


def test_big_bench(tmp_path: Path) -> None:
    scored = {"input": "Why is it blue?", "target_scores": {"paint": 0, "light": 1}}
    plain = {"input": "How much is 2 + 3?", "target": ["5", "five"]}
    task = {"canary": "none", "name": "sky", "examples": [scored, plain]}
    (tmp_path / "task.json").write_text(json.dumps(task, indent=2))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one_line.json").write_text(json.dumps(task))
    expected = (SKY, SuiteItem(question=("How much is 2 + 3?",), answer=("5", "five")))
    assert read(tmp_path / "task.json").items == expected
    assert read(tmp_path / "more").items == expected


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Two\nlines")
    (tmp_path / "a.md").write_text("One")
    assert read(tmp_path).items == (
        SuiteItem(question=("One",)),
        SuiteItem(question=("Two\nlines",)),
    )


def test_the_identity_is_that_of_the_words(tmp_path: Path) -> None:
    other = {"question": "Who asks?", "answer": "me"}
    one = read(lines(tmp_path / "a.jsonl", [MMLU[0], other]))
    loud = {**MMLU[0], "question": "WHY -- is it\n blue"}
    two = read(lines(tmp_path / "b.jsonl", [other, loud]))
    assert one.identity == two.identity
    three = read(lines(tmp_path / "c.jsonl", [other, {**loud, "answer": 0}]))
    assert three.identity != one.identity


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"input": "x"}', r"item 1: has no text under 'question'; its fields are: input. Name"),
        ('{"question": " "}', r"item 1: has no text under 'question'"),
        ("{", r"a.jsonl:1: is not JSON"),
        ("[1]", r"a.jsonl:1: an item must be a JSON object; got '\[1\]'"),
        ('{"examples": [{"input": "x"}, {"target": 1}]}', r"item 1, example 2: has no text"),
        ("", r"suite sky: .*a.jsonl holds no items"),
    ],
)
def test_what_is_no_suite(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl")


def test_a_table_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question\nWhy?\n")
    with pytest.raises(DataError, match="items are not read from csv files; make lines of JSON"):
        read(tmp_path / "a.csv")
    write_jsonl(tmp_path / "b.jsonl", ["no question"])
