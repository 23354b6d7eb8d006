# SPDX-License-Identifier: Apache-2.0
"""Replies in OpenAI's form, whole and streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megacpt.serve.engine import Writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """Of one request: all chunks of a stream have its id and time."""

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], *, writings: Sequence[Writing]) -> dict[str, Any]:
        """``texts``: of writings that have ended."""
        choices = [
            {"index": n, **self._said(text), "finish_reason": writing.finish, "logprobs": None}
            for n, (text, writing) in enumerate(zip(texts, writings, strict=True))
        ]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(writings)}

    def first(self) -> list[dict[str, Any]]:
        """What a stream of a chat begins with."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})] * self.is_chat

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"delta": {"content": text}} if self.is_chat else {"text": text})

    def last(self, writing: Writing) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        return self._chunk(said, finish=writing.finish)

    def usage_chunk(self, writing: Writing) -> dict[str, Any]:
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage([writing])}

    def _said(self, text: str) -> dict[str, Any]:
        if self.is_chat:
            return {"message": {"role": "assistant", "content": text}}
        return {"text": text}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, said: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, **said, "finish_reason": finish, "logprobs": None}
        return {**self._head(self._chunk_kind), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def usage(writings: Sequence[Writing]) -> dict[str, int]:
    asked = sum(len(writing.prompt.ids) for writing in writings)
    written = sum(writing.num_tokens for writing in writings)
    return {
        "prompt_tokens": asked,
        "completion_tokens": written,
        "total_tokens": asked + written,
    }
