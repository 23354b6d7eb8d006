# SPDX-License-Identifier: Apache-2.0
"""Answers of a model behind the OpenAI interface."""

from __future__ import annotations

from typing import Any

from megacpt.config.sections import UsefulnessConfig
from megacpt.endpoint.client import Client, Refused, Server, key_of
from megacpt.evaluate import journal
from megacpt.evaluate.usefulness.answer import Answer, Target
from megacpt.evaluate.usefulness.questions import Question


class ModelAnswerer:
    """A prompt is gone on with, messages are a chat."""

    def __init__(self, suite: UsefulnessConfig, *, target: Target, where: str) -> None:
        self._suite, self._target = suite, target
        key = key_of(target.key_variable, setting=f"{where}.key_variable")
        self._clients = {
            path: Client(
                Server(
                    url=f"{target.url.rstrip('/')}/{path}",
                    key=key,
                    timeout_s=suite.timeout_s,
                    retries=suite.retries,
                    remedy="see to it and start the same command again: answers are kept.",
                )
            )
            for path in ("completions", "chat/completions")
        }

    def key(self, question: Question) -> str:
        return journal.key_of(self._target.fingerprint, *self._request(question))

    def __call__(self, question: Question) -> Answer:
        path, fields = self._request(question)
        try:
            text = self._clients[path].post({"model": self._target.name, **fields}, read=_text_of)
        except Refused as error:
            return Answer(failure=f"refused: {error}")
        return Answer(text=text) if text.strip() else Answer(failure="empty")

    def stop(self) -> None:
        for client in self._clients.values():
            client.stop()

    def _request(self, question: Question) -> tuple[str, dict[str, Any]]:
        suite = self._suite
        fields: dict[str, Any] = {
            "max_tokens": suite.max_tokens,
            "temperature": suite.temperature,
            **({"stop": suite.stop} if suite.stop else {}),
        }
        if question.prompt and not suite.chat:
            return "completions", {**fields, "prompt": question.prompt}
        said = list(question.messages) or [{"role": "user", "content": question.prompt}]
        return "chat/completions", {**fields, "messages": said}


def _text_of(content: Any) -> str:
    """An answer that is cut at ``max_tokens`` is one: texts that are gone on with have no end."""
    choice = content["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the reply's text is none")
    found = text or ""
    found.encode("utf-8")  # JSON can escape half a surrogate pair.
    return found
