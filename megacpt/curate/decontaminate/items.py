# SPDX-License-Identifier: Apache-2.0
"""What a benchmark asks: items of parts that are looked for apart."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

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
class Suite:
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
