# SPDX-License-Identifier: Apache-2.0
"""Work of the first rank that asks the model: the other ranks answer along, and know no task.

So items are read, prompted and scored once, and no rank can come to another question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from megacpt.device.collective import from_first_rank
from megacpt.errors import MegacptError
from megacpt.evaluate.benchmarks.engine import Engine
from megacpt.evaluate.benchmarks.progress import SILENT, Progress
from megacpt.evaluate.benchmarks.text import Score, Text, Writing

T = TypeVar("T")


class Model:
    """What the first rank's work asks."""

    def __init__(self, engine: Engine, *, progress: Progress = SILENT) -> None:
        self._engine, self._passed = engine, progress.passed

    @property
    def max_length(self) -> int:
        return self._engine.max_length

    def score(self, texts: Sequence[Text]) -> list[Score]:
        return self._ask(partial(Engine.score, texts=texts))

    def write(self, prompts: Sequence[Sequence[int]], *, writing: Writing) -> list[list[int]]:
        return self._ask(partial(Engine.write, prompts=prompts, writing=writing))

    def _ask(self, question: Callable[..., T]) -> T:
        _tell(question)
        return question(self._engine, passed=self._passed)


def led_by_first_rank(
    engine: Engine, *, work: Callable[[Model], T], progress: Progress = SILENT
) -> T:
    """What ``work`` gives, on every rank; where it refuses, all do. A collective call.

    ``progress``: of the first rank, told of every question's passes."""

    def lead() -> T:
        try:
            made = work(Model(engine, progress=progress))
        except MegacptError:
            _tell(None)
            raise
        # After any other error nothing is told: this process ends, and so does the others' wait.
        _tell(None)
        return made

    if torch.distributed.get_rank() > 0:
        while (question := _hear()) is not None:
            question(engine)
    return from_first_rank(lead)


def _tell(question: Callable[[Engine], Any] | None) -> None:
    """The other ranks what the first asks; None: nothing more."""
    torch.distributed.broadcast_object_list([question], src=0)


def _hear() -> Callable[[Engine], Any] | None:
    held: list[Callable[[Engine], Any] | None] = [None]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]
