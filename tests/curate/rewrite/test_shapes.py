# SPDX-License-Identifier: Apache-2.0
"""Rows of public data sets, each as its authors publish it, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.curate.rewrite.shapes import Shape, plain_text, read_record

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROWS: list[tuple[str, dict[str, Any], Shape, str]] = [
    ("openai", {"messages": CHAT}, Shape.dialogue, "Hi|Hello"),
    (
        "openai parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, CHAT[1]]},
        Shape.dialogue,
        "Hi|Hello",
    ),
    (
        "sharegpt",
        {
            "id": "x_0",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        },
        Shape.dialogue,
        "Hi|Hello",
    ),
    (
        "tools",
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                CHAT[0],
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "21 °C"},
                CHAT[1],
            ]
        },
        Shape.dialogue,
        "Be kind.|Hi|21 °C|Hello",
    ),
    ("ultrachat", {"id": "0", "data": ["Hi", "Hello"]}, Shape.dialogue, "Hi|Hello"),
    (
        "trl prompt and completion",
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        Shape.dialogue,
        "Hi|Hello",
    ),
    (
        "preferences that repeat the prompt",
        {
            "prompt": "Hi",
            "chosen": CHAT,
            "rejected": [CHAT[0], {"role": "assistant", "content": "No"}],
        },
        Shape.dialogue,
        "Hi|Hello",
    ),
    (
        "turns that repeat the prompt",
        {"prompt": CHAT[:1], "chosen": CHAT},
        Shape.dialogue,
        "Hi|Hello",
    ),
    (
        "alpaca",
        {"instruction": "Add.", "input": "2 and 3", "output": "5", "text": "Below is ..."},
        Shape.instruction,
        "Add.|2 and 3|5",
    ),
    (
        "dolly",
        {"instruction": "Who?", "context": "", "response": "Bob", "category": "open_qa"},
        Shape.instruction,
        "Who?|Bob",
    ),
    (
        "prompt and completion",
        {"prompt": "One", "completion": " two"},
        Shape.instruction,
        "One|two",
    ),
    (
        "squad",
        {
            "id": "57",
            "title": "Bob",
            "context": "It was Bob.",
            "question": "Who?",
            "answers": {"text": ["Bob", "It was Bob"], "answer_start": [7, 0]},
        },
        Shape.question,
        "It was Bob.|Who?|Bob",
    ),
    (
        "gsm8k",
        {"question": "1+1?", "answer": "It is 2.\n#### 2"},
        Shape.question,
        "1+1?|It is 2.\n#### 2",
    ),
    (
        "trivia",
        {"question": "Who?", "answer": {"aliases": ["B"], "value": "Bob"}},
        Shape.question,
        "Who?|Bob",
    ),
    (
        "openorca",
        {"system_prompt": "Be kind.", "question": "Who?", "response": "Bob"},
        Shape.question,
        "Be kind.|Who?|Bob",
    ),
    (
        "mmlu",
        {"question": "2+2?", "subject": "math", "choices": ["3", "4", "5", "6"], "answer": 1},
        Shape.choices,
        "2+2?|3|4|5|6|4",
    ),
    (
        "arc with numbers for letters",
        {
            "question": "2+2?",
            "choices": {"text": ["3", "4"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        Shape.choices,
        "2+2?|3|4|4",
    ),
    (
        "columns of options",
        {"Question": "2+2?", "A": "3", "B": "4", "C": "5", "Answer": "B", "Topic": "sums"},
        Shape.choices,
        "2+2?|3|4|5|4",
    ),
    (
        "medmcqa",
        {"id": "e", "question": "2+2?", "opa": "3", "opb": "4", "cop": 1, "choice_type": "single"},
        Shape.choices,
        "2+2?|3|4|4",
    ),
    ("names in capitals", {"Prompt": "One", "Response": "two"}, Shape.instruction, "One|two"),
    (
        "medqa",
        {"question": "2+2?", "options": {"A": "3", "B": "4"}, "answer_idx": "B", "answer": "4"},
        Shape.choices,
        "2+2?|3|4|4",
    ),
]


@pytest.mark.parametrize(("row", "shape", "said"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_rows_of_public_data_sets(row: dict[str, Any], shape: Shape, said: str) -> None:
    found = read_record(row, shape=Shape.auto)
    assert found is not None
    assert found.shape is shape
    assert plain_text(found).replace("\n####", "\v####").split("\n") == said.replace(
        "\n####", "\v####"
    ).split("|")
    assert found.used <= set(row)
    assert not found.used & {"id", "subject", "category", "Topic", "title"}


def test_whom_the_words_are_from() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "u"},
            {"from": "gpt", "value": "a"},
            {"from": "observation", "value": "t"},
            {"from": "Narrator", "value": "n"},
        ]
    }
    found = read_record(row, shape=Shape.auto)
    assert found is not None
    assert [t["role"] for t in found.values["turns"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "narrator",
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "Words."},
        {"question": "Who?"},
        {"messages": [], "n": 1},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
                CHAT[1],
            ]
        },
        {"messages": "Hi"},
        {"tags": ["law", "land"]},
    ],
)
def test_what_is_no_record(row: dict[str, Any]) -> None:
    assert read_record(row, shape=Shape.auto) is None


def test_a_table_is_asked_for_by_name() -> None:
    row = {
        "id": 7,
        "name": "Oak",
        "height_m": 21.5,
        "uses": ["ships", "barrels"],
        "of": {"family": "Fagaceae", "genus": None},
        "rare": False,
    }
    assert read_record(row, shape=Shape.auto) is None
    found = read_record(row, shape=Shape.table)
    assert found is not None
    assert (
        plain_text(found)
        == "name: Oak\nheight m: 21.5\nuses: ships, barrels\nof family: Fagaceae\nrare: false"
    )


def test_only_the_shape_that_is_asked_for() -> None:
    row = {"question": "2+2?", "choices": ["3", "4"], "answer": "4"}
    assert read_record(row, shape=Shape.dialogue) is None
    found = read_record(row, shape=Shape.question)
    assert found is not None
    assert plain_text(found) == "2+2?\n4"


def test_an_answer_that_cannot_be_told_is_none() -> None:
    for answer in (4, -1, "E", None, True):
        found = read_record(
            {"question": "2+2?", "choices": ["3", "4"], "answer": answer}, shape=Shape.auto
        )
        assert found is not None, answer
        assert found.values["answer"] == "", answer
