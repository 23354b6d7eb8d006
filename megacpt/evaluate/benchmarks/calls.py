# SPDX-License-Identifier: Apache-2.0
"""Work of the first rank that asks the model: the other ranks answer along, and know no task.

So items are read, prompted and scored once, and no rank can come to another question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from megacpt.errors import MegacptError
from megacpt.evaluate.benchmarks.engine import Engine
from megacpt.evaluate.benchmarks.text import Score, Text, Writing

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTexts:
    """A question of the first rank to all."""

    texts: Sequence[Text]

    def run(self, engine: Engine) -> list[Score]:
        return engine.score(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTexts:
    """The same, of continuations."""

    prompts: Sequence[Sequence[int]]
    writing: Writing

    def run(self, engine: Engine) -> list[list[int]]:
        return engine.write(self.prompts, writing=self.writing)


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Generic[T]):
    """Nothing more is asked. ``error``: why the first rank's work refused."""

    value: T | None
    error: MegacptError | None


class Model:
    """What the first rank's work asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def max_length(self) -> int:
        return self._engine.max_length

    def score(self, texts: Sequence[Text]) -> list[Score]:
        call = ScoreTexts(texts=texts)
        _told(call)
        return call.run(self._engine)

    def write(self, prompts: Sequence[Sequence[int]], *, writing: Writing) -> list[list[int]]:
        call = WriteTexts(prompts=prompts, writing=writing)
        _told(call)
        return call.run(self._engine)


def led_by_first_rank(engine: Engine, *, work: Callable[[Model], T]) -> T:
    """What ``work`` gives, on every rank; where it refuses, all do. A collective call."""
    if torch.distributed.get_rank() == 0:
        try:
            end = End(value=work(Model(engine)), error=None)
        except MegacptError as error:
            end = End(value=None, error=error)
        _told(end)
    else:
        while not isinstance(call := _told(None), End):
            call.run(engine)
        end = call
    if end.error is not None:
        raise end.error
    value: T = end.value  # type: ignore[assignment]
    return value


def _told(call: Any) -> Any:
    """The first rank's on all."""
    held = [call]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]
