# SPDX-License-Identifier: Apache-2.0
"""Which pieces are whose, where several machines work on one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from megacpt.errors import ConfigError

Item = TypeVar("Item")


class Share(NamedTuple):
    """Every piece whose number is ``number`` more than a multiple of ``tasks``."""

    number: int
    tasks: int

    def of(self, pieces: Sequence[Item]) -> Sequence[Item]:
        return pieces[self.number :: self.tasks] if self.tasks else pieces[:0]

    @property
    def is_first(self) -> bool:
        """Whoever has the first share also does what is done once for all pieces."""
        return self.number == 0


NO_PIECES = Share(0, 0)
"""Only what is done once."""


def parse_share(text: str) -> Share:
    """Of a text K/N."""
    number, _, tasks = text.partition("/")
    try:
        return checked_share(int(number), tasks=int(tasks))
    except ValueError as error:
        raise ConfigError(f"task={text} must be K/N, as in 0/4 for the first of four.") from error


def checked_share(number: int, *, tasks: int) -> Share:
    if not 0 <= number < tasks:
        raise ConfigError(
            f"task={number}/{tasks} must be K/N with K from 0 to N-1, as in 0/4, 1/4, 2/4, 3/4."
        )
    return Share(number, tasks)
