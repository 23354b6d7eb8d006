# SPDX-License-Identifier: Apache-2.0
"""What a model has answered already: a file that grows, one model a file.

Asked again, such as by another suite, after an interruption or with more items, an answer is taken
from there. Its key is all that it depends on but the model, by tokens: a prompt that changes asks
anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import xxhash

from megacpt.files import json_line

Q = TypeVar("Q")
AT_ONCE = 4096
"""Answers that an interruption may cost."""


class Answers:
    """``path`` names the model by its fingerprint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    def get(
        self,
        questions: Sequence[Q],
        *,
        key: Callable[[Q], str],
        ask: Callable[[Sequence[Q]], Sequence[Any]],
    ) -> list[Any]:
        """In the order of the questions, as JSON holds them; each that is unknown is asked once."""
        unknown = {key(q): q for q in questions if key(q) not in self._known}
        keys = list(unknown)
        for start in range(0, len(keys), AT_ONCE):
            asked = keys[start : start + AT_ONCE]
            found = ask([unknown[k] for k in asked])
            self._add(dict(zip(asked, found, strict=True)))
        return [self._known[key(q)] for q in questions]

    def _add(self, found: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.writelines(json_line([key, value]) for key, value in found.items())
            file.flush()
            os.fsync(file.fileno())
        self._known |= found


def question_key(*parts: object) -> str:
    """Of numbers, texts and lists of them."""
    return xxhash.xxh3_128_hexdigest(orjson.dumps(parts))


def _read(path: Path) -> dict[str, Any]:
    """A line that an interruption has cut is left out, and what follows it."""
    known: dict[str, Any] = {}
    if not path.exists():
        return known
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                key, value = orjson.loads(line)
            except ValueError:
                break
            known[key] = value
            whole += len(line)
    os.truncate(path, whole)
    return known
