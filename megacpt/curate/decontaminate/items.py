# SPDX-License-Identifier: Apache-2.0
"""What a benchmark asks: items of parts that are looked for apart, in whatever fields and shapes
benchmarks give their texts."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import xxhash

from megacpt import _C


class ItemPart(enum.IntEnum):
    """In the order in which a document is said to hold them."""

    question = 0
    answer = 1
    option = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteItem:
    question: tuple[str, ...]
    """Texts: a passage and what is asked about it are two."""
    answer: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[ItemPart, str]]:
        """The right option is the answer already."""
        yield from ((ItemPart.question, text) for text in self.question)
        yield from ((ItemPart.answer, text) for text in self.answer)
        yield from ((ItemPart.option, text) for text in self.options if text not in self.answer)


class Words(NamedTuple):
    """A part of an item as normalised words, with one blank between them."""

    part: ItemPart
    text: str

    @property
    def length(self) -> int:
        return self.text.count(" ") + 1 if self.text else 0


@dataclass(frozen=True, kw_only=True)
class ItemSuite:
    name: str
    source: str
    """As it was named."""
    items: tuple[SuiteItem, ...]

    @cached_property
    def words(self) -> tuple[tuple[Words, ...], ...]:
        """Of each item its parts."""
        parts = [list(item.parts()) for item in self.items]
        texts = iter(normalised(text for found in parts for _, text in found))
        return tuple(tuple(Words(part, next(texts)) for part, _ in found) for found in parts)

    @cached_property
    def identity(self) -> str:
        """128 bits of the words of all items, whatever their order, in hexadecimal."""
        items = sorted("\n".join(f"{part.name}: {text}" for part, text in w) for w in self.words)
        return xxhash.xxh3_128_hexdigest("\n\n".join(items).encode())


def normalised(texts: Iterable[str]) -> list[str]:
    found = _C.Sketcher().sketch(list(texts), shingles=False)
    content = found.normalised.tobytes()
    return [content[start:stop].decode() for start, stop in pairwise(found.text_offsets.tolist())]


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
