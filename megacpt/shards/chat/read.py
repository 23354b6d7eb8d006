# SPDX-License-Identifier: Apache-2.0
"""The conversations of a passage of input, each with the number of its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from megacpt.corpus.documents import (
    BadLine,
    ErrorKind,
    LineProblem,
    Passage,
    numbers,
    read_json_object,
    too_long,
)
from megacpt.shards.chat.conversation import Conversation, ConversationError, read_conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLine:
    number: int
    content: bytes
    conversation: Conversation

    def bad(self, error: ConversationError, *, kind: ErrorKind) -> BadLine:
        return BadLine(line=self.number, kind=kind, problem=str(error), content=self.content)


def read_lines(passage: Passage, *, max_bytes: int) -> Iterator[ChatLine | BadLine]:
    """Every line that is not blank; with the ``bad`` ones of the passage itself at the end."""
    content = passage.content
    values = content.split(b"\n") if isinstance(content, bytes) else content
    for number, value in zip(numbers(passage, count=len(values)), values, strict=True):
        assert isinstance(value, bytes), "without a key, rows are objects"
        if not value.strip():
            continue
        if len(value) > max_bytes:
            yield too_long(number, num_bytes=len(value), limit=max_bytes, head=value)
        else:
            yield _read(value, number=number)
    yield from passage.bad


def _read(content: bytes, *, number: int) -> ChatLine | BadLine:
    fields = read_json_object(content, loads=_json)
    if isinstance(fields, LineProblem):
        return BadLine(line=number, kind=fields.kind, problem=fields.problem, content=content)
    try:
        found = read_conversation(fields)
    except ConversationError as error:
        kind = ErrorKind.no_conversation
        return BadLine(line=number, kind=kind, problem=str(error), content=content)
    return ChatLine(number=number, content=content, conversation=found)


def _json(content: bytes) -> Any:
    """The standard library also takes NaN and a byte order mark."""
    try:
        return orjson.loads(content)
    except ValueError:
        return json.loads(content)
