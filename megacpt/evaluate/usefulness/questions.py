# SPDX-License-Identifier: Apache-2.0
"""The questions of a suite, as they stand in its JSONL file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megacpt.errors import DataError

KNOWN = {"id", "prompt", "messages", "reference", "rubric", "context", "cluster"}
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``prompt`` or ``messages``, one of them. ``references``: right answers, any of them.
    ``rubric``: what a judge looks at. ``context``: what an answer must rest on. ``cluster``: what
    questions have in common, such as a document; the id where each stands alone."""

    id: str
    cluster: str
    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    references: tuple[str, ...] = ()
    rubric: str = ""
    context: str = ""

    @property
    def text(self) -> str:
        """All of it, as a person would read it."""
        said = [f"{said['role']}: {said['content']}" for said in self.messages]
        return self.prompt or "\n\n".join(said)


def read_questions(path: Path, *, limit: int) -> tuple[Question, ...]:
    """``limit`` 0: all. An id that is not given is the number of the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as UTF-8 ({error}); name a JSONL file of questions."
        ) from error
    rows = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    found = tuple(_question(line, number=n, path=path) for n, line in rows[: limit or None])
    if not found:
        raise DataError(f"{path} holds no question; write one JSON object a line.")
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise DataError(f"{path} has two questions with the id {question.id}; change one.")
        seen.add(question.id)
    return found


def _question(line: str, *, number: int, path: Path) -> Question:
    where = f"{path}:{number}"
    try:
        row = orjson.loads(line)  # Which takes no half of a surrogate pair.
    except ValueError as error:
        raise DataError(f"{where} is no JSON ({error}); write one object a line.") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object; write one with a prompt.")
    unknown = sorted(row.keys() - KNOWN)
    if unknown:
        raise DataError(
            f"{where} has the field {unknown[0]}; known are {', '.join(sorted(KNOWN))}."
        )
    if bool(row.get("prompt")) == bool(row.get("messages")):
        raise DataError(f"{where} needs a prompt or messages, one of them.")
    given = row.get("id")
    if given is not None and not isinstance(given, str | int):
        raise DataError(f"{where}: id={given} must be a text or a whole number.")
    name = str(number if given is None else given)
    return Question(
        id=name,
        cluster=_text(row, name="cluster", where=where) or name,
        prompt=_text(row, name="prompt", where=where),
        messages=_messages(row.get("messages") or [], where=where),
        references=_references(row.get("reference"), where=where),
        rubric=_text(row, name="rubric", where=where),
        context=_text(row, name="context", where=where),
    )


def _text(row: Mapping[str, Any], *, name: str, where: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a text.")
    return value or ""


def _references(value: object, *, where: str) -> tuple[str, ...]:
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(t, str) and t.strip() for t in found):
        raise DataError(f"{where}: reference must be a text, or a list of texts.")
    return tuple(found)


def _messages(value: object, *, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: messages must be a list.")
    for said in value:
        is_said = isinstance(said, dict) and isinstance(said.get("content"), str)
        if not is_said or said.get("role") not in ROLES:
            raise DataError(
                f"{where}: a message needs a content and a role, one of {', '.join(ROLES)}."
            )
    return tuple({"role": said["role"], "content": said["content"]} for said in value)
