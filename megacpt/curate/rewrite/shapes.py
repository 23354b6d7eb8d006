# SPDX-License-Identifier: Apache-2.0
"""Raw records that hold no text of their own: conversations, questions, instructions, tables.

The names of fields are those of public data sets. What a record says is put in the same words
whatever they were, for templates and for the steps before them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

RECORD = "raw_record"
"""Field of a document that was read from a record: its shape and values."""


class Shape(enum.Enum):
    auto = "auto"
    """Whichever of the others a record has, but ``table``."""
    dialogue = "dialogue"
    """Turns: ``messages``, ``conversations`` (ShareGPT), ``prompt`` and ``completion`` of turns."""
    choices = "choices"
    """A question with options, and which of them is right."""
    question = "question"
    """With its answer, and what it is about."""
    instruction = "instruction"
    """With its input and output, also ``prompt`` and ``completion``."""
    table = "table"
    """Any other object: its fields with their names."""


class ShapedRecord(NamedTuple):
    shape: Shape
    values: dict[str, Any]
    used: frozenset[str]
    """Keys of the fields that the values are from."""

    def to_json(self) -> dict[str, Any]:
        return {"shape": self.shape.value, **self.values}


CONVERSATIONS = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "data"),
)
ASKED = ("prompt", "prompts")
REPLIED = ("completion", "completions", "chosen", "response")
TASKS = ("instruction", "instructions", "prompt", "input", "inputs")
QUESTIONS = ("question", "question_stem", "problem", "query")
BESIDE = ("context", "input", "passage", "article", "paragraph", "support", "system_prompt")
REPLIES = (
    *("output", "outputs", "response", "completion", "answer", "answers", "correct_answer"),
    *("solution", "target", "targets", "chosen"),
)
OPTIONS = ("choices", "options")
LETTERED = ("{}", "option_{}", "option{}", "choice_{}", "op{}")
"""Columns of options, with a letter."""
CORRECT = (
    *("answer", "answerkey", "answer_key", "answer_idx", "answer_index", "label", "correct"),
    *("correct_answer", "cop"),
)
SPEAKERS, SAID = ("role", "from", "speaker"), ("content", "value", "text")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "instruction", "input"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "bard", "bing"), "assistant"),
    **dict.fromkeys(("answer", "response"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_call"), "tool"),
}


def read_record(fields: Mapping[str, Any], *, shape: Shape) -> ShapedRecord | None:
    """What a JSON object says, if it has the shape; its names may be in capitals."""
    if shape is Shape.table:
        return _table(fields)
    small = {name.lower(): value for name, value in fields.items()}
    readers = _READERS.values() if shape is Shape.auto else [_READERS[shape]]
    found = next((record for reader in readers if (record := reader(small)) is not None), None)
    if found is None:
        return None
    return found._replace(used=frozenset(n for n in fields if n.lower() in found.used))


def is_pair(content: object) -> bool:
    """Whether it stands under RECORD, as it was written there."""
    return isinstance(content, dict) and content.get("shape") in _WRITTEN


def of_json(content: Mapping[str, Any]) -> ShapedRecord:
    return ShapedRecord(Shape(content["shape"]), dict(content), frozenset())


def plain_text(record: ShapedRecord) -> str:
    """All that it says, in order, with nothing added."""
    return "\n".join(text for text in _texts(record) if text)


def _texts(record: ShapedRecord) -> Iterator[str]:
    values = record.values
    match record.shape:
        case Shape.dialogue:
            yield from (turn["text"] for turn in values["turns"])
        case Shape.table:
            yield from (f"{field['name']}: {field['value']}" for field in values["fields"])
        case Shape.instruction:
            yield from (values["instruction"], values["input"], values["output"])
        case _:
            yield from (values["context"], values["question"])
            yield from (option["text"] for option in values.get("options", ()))
            yield values["answer"]


def dialogue_of(turns: Sequence[Mapping[str, str]], *, used: frozenset[str]) -> ShapedRecord:
    """``turns`` with the system's words apart."""
    said = [dict(turn) for turn in turns if turn["text"]]
    return ShapedRecord(Shape.dialogue, {"turns": said}, used)


def _dialogue(fields: Mapping[str, Any]) -> ShapedRecord | None:
    for key in CONVERSATIONS:
        if turns := _turns(fields.get(key)):
            return dialogue_of(turns, used=frozenset([key]))
    asked, replied = _first(fields, keys=ASKED), _first(fields, keys=REPLIED)
    before, after = _turns(asked[1]), _turns(replied[1])
    if not after:
        return None
    # Preferences repeat the prompt at the beginning of each of their answers.
    turns = after if before == after[: len(before)] else [*before, *after]
    return dialogue_of(turns, used=frozenset([asked[0], replied[0]]))


def _turns(value: Any) -> list[dict[str, str]]:
    """Of a list of messages; empty if it is none, or holds more than text."""
    if not isinstance(value, list) or len(value) < 1:
        return []
    if all(isinstance(said, str) for said in value) and len(value) > 1:
        return [
            {"role": ("user", "assistant")[n % 2], "text": said.strip()}
            for n, said in enumerate(value)
        ]
    turns = [_turn(message) for message in value]
    return [turn for turn in turns if turn is not None] if None not in turns else []


def _turn(message: Any) -> dict[str, str] | None:
    if not isinstance(message, Mapping):
        return None
    role, content = _first(message, keys=SPEAKERS)[1], _first(message, keys=SAID)[1]
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            return None
        content = "\n".join(texts)
    if not isinstance(role, str) or not isinstance(content, str | None):
        return None
    return {"role": ROLES.get(role.lower(), role.lower()), "text": (content or "").strip()}


def _choices(fields: Mapping[str, Any]) -> ShapedRecord | None:
    asked, offered = _first(fields, keys=QUESTIONS), _first(fields, keys=OPTIONS)
    question, options, columns = _text(asked[1]), _options(offered[1]), {offered[0]}
    if question is not None and not offered[0]:
        columns, options = _lettered(fields)
    if question is None or len(options) < 2:
        return None
    beside = _first(fields, keys=BESIDE)
    told = [_first(fields, keys=(key,)) for key in CORRECT]
    right = next(((k, o) for k, v in told if (o := _right(v, options=options))), ("", None))
    values = {
        "question": question,
        "context": _text(beside[1]) or "",
        "options": options,
        "answer": right[1]["text"] if right[1] else "",
        "label": right[1]["label"] if right[1] else "",
    }
    return ShapedRecord(Shape.choices, values, frozenset([*columns, asked[0], beside[0], right[0]]))


def _lettered(fields: Mapping[str, Any]) -> tuple[set[str], list[dict[str, str]]]:
    """Options in columns of their own, whose names are the same but for a letter."""
    for name in LETTERED:
        columns = [name.format(letter) for letter in "abcdefghij"]
        columns = list(takewhile(lambda column: isinstance(fields.get(column), str), columns))
        if len(columns) > 1:
            return set(columns), _options([fields[column] for column in columns])
    return set(), []


def _options(value: Any) -> list[dict[str, str]]:
    """A list of texts, texts with labels beside them, or texts by label."""
    labels: Sequence[Any] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    texts = value
    if isinstance(value, Mapping):
        labels = value.get("label") or list(value)
        texts = value.get("text") or list(value.values())
    if not isinstance(texts, list) or len(texts) > len(labels):
        return []
    found = [(str(label), text) for label, text in zip(labels, texts, strict=False)]
    if not all(isinstance(text, str) for _, text in found):
        return []
    return [{"label": label, "text": text.strip()} for label, text in found]


def _right(value: Any, *, options: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """Told by its label, its text or, from 0, its number; of a number that is no label only so,
    for options may be numbers too."""
    said = str(value).strip() if isinstance(value, str | int) else ""
    for key in ("label", "text") if isinstance(value, str) else ("label",):
        for option in options:
            if option[key] == said and said:
                return option
    return options[int(said)] if said.isdecimal() and int(said) < len(options) else None


def _question(fields: Mapping[str, Any]) -> ShapedRecord | None:
    return _pair(fields, shape=Shape.question, asks=QUESTIONS, names=("question", "context"))


def _instruction(fields: Mapping[str, Any]) -> ShapedRecord | None:
    return _pair(fields, shape=Shape.instruction, asks=TASKS, names=("instruction", "input"))


def _pair(
    fields: Mapping[str, Any], *, shape: Shape, asks: Sequence[str], names: tuple[str, str]
) -> ShapedRecord | None:
    asked, replied = _first(fields, keys=asks), _first(fields, keys=REPLIES)
    beside = _first(fields, keys=[key for key in BESIDE if key != asked[0]])
    question, answer = _text(asked[1]), _text(replied[1])
    if question is None or answer is None:
        return None
    reply = "answer" if shape is Shape.question else "output"
    values = {names[0]: question, names[1]: _text(beside[1]) or "", reply: answer}
    return ShapedRecord(shape, values, frozenset([asked[0], beside[0], replied[0]]))


def _text(value: Any) -> str | None:
    """A text; of several, such as accepted answers, the first."""
    if isinstance(value, Mapping):
        value = _first(value, keys=("text", "value"))[1]
    if isinstance(value, list):
        value = next((text for text in value if text), "")
        return _text(value) if isinstance(value, str | Mapping) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else None


def _first(fields: Mapping[str, Any], *, keys: Sequence[str]) -> tuple[str, Any]:
    """The first key that has a value; empty if none has."""
    return next(((key, fields[key]) for key in keys if fields.get(key) is not None), ("", None))


def _table(fields: Mapping[str, Any]) -> ShapedRecord | None:
    kept = {key: value for key, value in fields.items() if key != "id"}
    rows = [{"name": name, "value": value} for name, value in _cells(kept, above="")]
    return ShapedRecord(Shape.table, {"fields": rows}, frozenset(kept)) if rows else None


def _cells(value: Any, *, above: str) -> Iterator[tuple[str, str]]:
    """Names as words, those of objects within objects after the names of these."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            name = str(key).replace("_", " ").strip()
            yield from _cells(below, above=f"{above} {name}".strip())
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield from _cells(item, above=above)
    elif isinstance(value, list):
        if said := ", ".join(str(item) for item in value if item not in (None, "")):
            yield above, said
    elif value not in (None, ""):
        yield above, str(value).lower() if isinstance(value, bool) else str(value).strip()


_READERS = {
    Shape.dialogue: _dialogue,
    Shape.choices: _choices,
    Shape.question: _question,
    Shape.instruction: _instruction,
}
_WRITTEN = {shape.value for shape in (*_READERS, Shape.table)}
