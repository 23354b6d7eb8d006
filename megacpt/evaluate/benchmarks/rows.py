# SPDX-License-Identifier: Apache-2.0
"""Rows of a forward pass for many texts: what texts begin with in common is computed once.

Sorted, texts with a common beginning are neighbours. A row takes them one behind the other until it
is full; each adds only the tokens by which it differs from the one before it, whose beginning it
sees (megacpt.model.layers.attention.branches). A row so has no padding.

Shapes: T tokens of a row, R scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from megacpt.evaluate.benchmarks.text import Text

SHARED_MIN = 16
"""A shorter common beginning is computed again: attention of a branch costs a little, too."""

Piece = tuple[int, int]
"""First token of a row, and the one behind the last."""


@dataclass(slots=True, kw_only=True)
class SharedRow:
    """``paths_N``: where each text that adds tokens lies, piece after piece, the last its own."""

    tokens_T: list[int] = field(default_factory=list)
    positions_T: list[int] = field(default_factory=list)
    paths_N: list[tuple[Piece, ...]] = field(default_factory=list)
    places_R: list[int] = field(default_factory=list)
    labels_R: list[int] = field(default_factory=list)
    owners_R: list[int] = field(default_factory=list)
    """Number of the text."""
    texts: dict[int, tuple[Piece, ...]] = field(default_factory=dict)
    """Number of a text -> where it lies, whether it adds tokens or not."""

    def add(self, text: Text, *, number: int, beginning: tuple[Piece, ...]) -> None:
        """``beginning``: where its first tokens lie already, as those of a text before it."""
        shared, start = sum(stop - start for start, stop in beginning), len(self.tokens_T)
        self.tokens_T += text.inputs[shared:]
        self.positions_T += range(shared, len(text.inputs))
        path = beginning
        if len(self.tokens_T) > start:
            path = (*beginning, (start, len(self.tokens_T)))
            self.paths_N.append(path)
        self.texts[number] = path
        places = [place for start, stop in path for place in range(start, stop)]
        self.places_R += places[text.first_scored :]
        self.labels_R += text.labels
        self.owners_R += [number] * len(text.labels)

    def pad(self, length: int) -> None:
        """With a text of its own, which nobody asks about."""
        start = len(self.tokens_T)
        if start < length:
            self.tokens_T += [0] * (length - start)
            self.positions_T += range(length - start)
            self.paths_N.append(((start, length),))


def shared_rows(texts: Sequence[Text], *, max_tokens: int) -> list[SharedRow]:
    """At most ``max_tokens`` in a row, unless one text alone is longer."""
    rows: list[SharedRow] = []
    previous: int | None = None
    for number in sorted(range(len(texts)), key=lambda n: texts[n].inputs):
        text = texts[number]
        shared = 0 if previous is None else _common(texts[previous].inputs, text.inputs)
        if previous is None or len(rows[-1].tokens_T) + len(text.inputs) - shared > max_tokens:
            rows.append(SharedRow())
            beginning: tuple[Piece, ...] = ()
        else:
            beginning = _cut(rows[-1].texts[previous], length=shared)
        rows[-1].add(text, number=number, beginning=beginning)
        previous = number
    return rows


def padded_rows(texts: Sequence[Text], *, max_tokens: int) -> list[list[int]]:
    """For models that take no branches: numbers of the texts of each batch, of much the same
    length, at most ``max_tokens`` of the longest one's length."""
    batches: list[list[int]] = []
    longest = 0
    for number in sorted(range(len(texts)), key=lambda n: -len(texts[n].inputs)):
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest = len(texts[number].inputs)
        batches[-1].append(number)
    return batches


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with; 0 if they are too few to share."""
    pairs = zip(first, second, strict=False)
    length = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    return length if length >= SHARED_MIN else 0


def _cut(path: tuple[Piece, ...], *, length: int) -> tuple[Piece, ...]:
    return tuple(_pieces(path, length=length))


def _pieces(path: tuple[Piece, ...], *, length: int) -> Iterator[Piece]:
    for start, stop in path:
        if length <= 0:
            return
        yield start, min(stop, start + length)
        length -= stop - start
