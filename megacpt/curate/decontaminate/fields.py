# SPDX-License-Identifier: Apache-2.0
"""The texts in the fields of an item, in the shapes that benchmarks give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def field(fields: Any, *, name: str) -> Any:
    """None: it has none of that name."""
    for key in name.split("."):
        fields = fields.get(key) if isinstance(fields, Mapping) else None
    return fields


def texts_of(value: Any) -> tuple[str, ...]:
    """All texts that a value holds; of ``{"text": [...], "label": [...]}`` the first."""
    if isinstance(value, Mapping):
        return texts_of(value.get("text", list(value.values())))
    if isinstance(value, list | tuple):
        return tuple(text for inner in value for text in texts_of(inner))
    text = "" if value is None else str(value)
    return (text,) if text.strip() else ()


def chosen(answer: Any, *, options: Sequence[str]) -> tuple[str, ...]:
    """The texts of an answer that may be an option's number, from 0, or its letter."""
    found = texts_of(answer)
    if not options or len(found) != 1 or found[0] in options:
        return found
    word = found[0].strip()
    number = ord(word) - ord("A") if len(word) == 1 and word.isalpha() else -1
    if word.isdecimal():
        number = int(word)
    return (options[number],) if 0 <= number < len(options) else found
