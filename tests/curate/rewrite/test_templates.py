# SPDX-License-Identifier: Apache-2.0
"""What templates make of values, which of them is taken, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

from megacpt.curate.rewrite.shapes import Shape, plain_text, read_record
from megacpt.curate.rewrite.templates import BUILT_IN, Templates, read_prompt
from megacpt.errors import ConfigError, DataError

CODE = "def f():\n    pass\n\n\n\n  x = 1"
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": r, "content": c}
            for r, c in (("system", "s1"), ("user", "u1"), ("assistant", CODE))
        ]
    },
    {"question": "q1", "answer": CODE},
    {"question": "q1", "context": CODE, "answer": "a1"},
    {"question": "q1", "choices": ["o1", "o2", "o3"], "answer": 1},
    {"instruction": "i1", "input": CODE, "output": "r1"},
    {"instruction": "i1", "output": CODE},
    {"name": "Oak", "height": 21, "note": CODE},
]


def records() -> list[dict[str, Any]]:
    found = [
        read_record(row, shape=Shape.auto) or read_record(row, shape=Shape.table) for row in ROWS
    ]
    return [record.to_json() for record in found if record is not None]


def rendered(templates: Templates, record: dict[str, Any]) -> dict[str, str]:
    """By template."""
    names = {templates.choose(record["shape"], id=str(n), seed=0) for n in range(100)}
    return {name: templates.render(name, record=record, id="x") for name in sorted(names)}


@pytest.mark.parametrize("record", records(), ids=lambda r: str(r["shape"]))
def test_no_template_loses_or_touches_a_value(record: dict[str, Any]) -> None:
    texts = rendered(Templates("english"), record)
    files = [yaml.safe_load(path.read_text()) for path in BUILT_IN["english"]]
    assert set(texts) == {name for file in files for name in file[record["shape"]]}
    values = [
        v
        for row in ROWS
        for v in re.findall(r"\b[sqaiur]1\b|Oak|21", repr(row))
        if v in repr(record)
    ]
    for name, text in texts.items():
        assert all(value in text for value in values), name
        assert (CODE in text) == (repr(CODE)[1:-1] in repr(record)), name
        assert text == text.strip()
        assert "\n\n\n" not in text.replace(CODE, "x"), name


@pytest.mark.parametrize("record", records(), ids=lambda r: str(r["shape"]))
def test_neutral_templates_add_no_word(record: dict[str, Any]) -> None:
    """Against the values themselves: all letters and digits of the text are theirs."""
    said = Counter(re.findall(r"\w+", repr(record).replace("\\n", " ")))
    for name, text in rendered(Templates("neutral"), record).items():
        assert set(re.findall(r"\w+", text)) <= set(said), name


def test_jinja_itself_makes_the_same_of_a_template(tmp_path: Path) -> None:
    source = "{% for turn in turns %}{{ turn.role | upper }}: {{ turn.text }};{% endfor %}"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"dialogue": {"shout": source}}))
    record = records()[0]
    assert Templates(str(path)).render("shout", record=record, id="x") == Environment().from_string(
        source
    ).render(record)


def test_the_choice_depends_on_the_id_alone_and_shares_are_even(tmp_path: Path) -> None:
    few, more = tmp_path / "few.yaml", tmp_path / "more.yaml"
    few.write_text(yaml.safe_dump({"question": dict.fromkeys("abc", "{{ answer }}")}))
    more.write_text(yaml.safe_dump({"question": dict.fromkeys("abcd", "{{ answer }}")}))
    ids = [f"document {n}" for n in range(8000)]
    of_few, of_more = Templates(str(few)), Templates(str(more))
    before = [of_few.choose("question", id=id, seed=0) for id in ids]
    after = [of_more.choose("question", id=id, seed=0) for id in ids]
    # Binomial, n = 8000: four standard deviations are 170 and 155.
    assert all(abs(count - 8000 / 3) < 170 for count in Counter(before).values())
    assert all(abs(count - 2000) < 155 for count in Counter(after).values())
    assert all(a in (b, "d") for b, a in zip(before, after, strict=True))
    other = [of_few.choose("question", id=id, seed=1) for id in ids]
    assert abs(sum(a == b for a, b in zip(before, other, strict=True)) - 8000 / 3) < 170


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question: {a: '{{ anser }}'}", r"question.a uses anser, but .* has question, context"),
        ("question: {a: '{% if %}'}", r"question.a is no template \(line 1"),
        ("poem: {a: '{{ x }}'}", r"poem is no shape; the shapes are dialogue"),
        ("question: text", r"below question there must be templates"),
        ("question: {a: ''}", r"question.a must be the text of a template"),
    ],
)
def test_templates_that_cannot_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Templates(str(path))


@pytest.mark.parametrize(
    "source",
    [
        "{{ turns[0].wrong }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ turns.append(1) }}",
        "{{ turns | first | join | int // 0 }}",
    ],
)
def test_a_template_sees_its_values_and_nothing_else(tmp_path: Path, source: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"dialogue": {"a": source}}))
    with pytest.raises(DataError, match=r"dialogue.a of .* fails for the record x: .*correct the"):
        Templates(str(path)).render("a", record=records()[0], id="x")


def test_a_shape_without_a_template_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"dialogue": {"a": "x"}}))
    with pytest.raises(ConfigError, match="no template for records of shape question, such as x"):
        Templates(str(path)).choose("question", id="x", seed=0)


def test_prompts(tmp_path: Path) -> None:
    assert "{{ text }}" in read_prompt("encyclopedia")
    path = tmp_path / "prompt.txt"
    path.write_text("Shorter: {{ text }}")
    assert read_prompt(str(path)) == "Shorter: {{ text }}"
    path.write_text("Shorter: {{ texts }}")
    with pytest.raises(ConfigError, match=r"must use .. text .., the document"):
        read_prompt(str(path))
    with pytest.raises(ConfigError, match="neither encyclopedia and textbook nor a file"):
        read_prompt("encyclopaedia")


def test_what_a_shape_says_is_what_templates_get() -> None:
    for row, record in zip(ROWS, records(), strict=True):
        found = read_record(row, shape=Shape(record["shape"]))
        assert found is not None
        assert CODE in plain_text(found) or CODE not in row.values()
