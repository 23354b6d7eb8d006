# SPDX-License-Identifier: Apache-2.0
"""An answer, and those who give one: a model, or a pipeline around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from megacpt.evaluate.usefulness.questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``failure``: why there is none; the text is empty then."""

    text: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The model that answers. ``role``: ``base`` or ``final``. ``fingerprint``: of its weights, by
    which answers are kept. ``url``: up to /v1. ``name``: what the server calls it."""

    role: str
    fingerprint: str
    url: str
    name: str
    key_variable: str | None = None


class Answerer(Protocol):
    """Asked in several threads."""

    def key(self, question: Question) -> str:
        """The same for the same question to the same model in the same way."""
        ...

    def __call__(self, question: Question) -> Answer: ...

    def stop(self) -> None:
        """No question that is asked now or later need be answered."""
        ...
