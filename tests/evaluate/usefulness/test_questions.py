# SPDX-License-Identifier: Apache-2.0
"""Files of questions, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.errors import DataError
from megacpt.evaluate.usefulness.questions import read_questions


def write(folder: Path, *rows: object) -> Path:
    path = folder / "questions.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_what_a_line_says(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    path = write(
        tmp_path,
        {"prompt": "2+2=", "reference": ["4", "four"], "cluster": "sums"},
        "",
        {"id": 7, "messages": said, "rubric": "Is it short?", "context": "c"},
        {"prompt": "last"},
    )
    first, second, third = read_questions(path, limit=0)
    assert (first.id, first.cluster, first.references) == ("1", "sums", ("4", "four"))
    assert (second.id, second.cluster, second.rubric) == ("7", "7", "Is it short?")
    assert second.text == "system: Be short.\n\nuser: Why?"
    assert third.id == "4"
    assert len(read_questions(path, limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "questions.jsonl:1 is no JSON"),
        ([1], "is no JSON object"),
        ({"prompt": "a", "answer": "b"}, "has the field answer; known are cluster"),
        ({"id": "a"}, "needs a prompt or messages, one of them"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "one of them"),
        ({"prompt": "a", "reference": 4}, "reference must be a text"),
        ({"prompt": "a", "reference": ["b", " "]}, "reference must be a text"),
        ('{"prompt": "\\ud800"}', "questions.jsonl:1 is no JSON"),
        ({"prompt": "a", "rubric": 4}, "rubric must be a text"),
        ({"prompt": "a", "id": [1]}, r"id=\[1\] must be a text"),
        ({"messages": [{"role": "me", "content": "a"}]}, "a message needs a content and a role"),
        ({"messages": "a"}, "messages must be a list"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write(tmp_path, row), limit=0)


def test_files_without_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no question"):
        read_questions(write(tmp_path), limit=0)
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_questions(tmp_path / "none.jsonl", limit=0)
    with pytest.raises(DataError, match="two questions with the id a"):
        read_questions(
            write(tmp_path, {"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}), limit=0
        )
