# SPDX-License-Identifier: Apache-2.0
"""A BPE with more merges behind its own.

BPE applies the merge that stands first in its list, so new merges at the end come after all the old
ones: a text is cut as it was, and then the new ones join what is left. Where none applies, ids are
the old ones. Tokens that ``add_tokens`` of transformers adds are looked for before the text is cut
into words instead, in the middle of others, too: "art" in "party". So a token that is one word of
the tokenizer is merged, and only what is none (``<|case|>``, two words) is added in this way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from megacpt.errors import DataError
from megacpt.vocabulary.bpe import Bpe, Ids
from megacpt.vocabulary.wanted import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """An id that the model has had no meaning for."""

    id: int
    string: str
    """As the vocabulary writes it."""
    parts: Ids
    """The old tokens of the same text."""
    is_merged: bool
    is_step: bool = False
    """Whether it is only on the way to one that was asked for."""


class Growth:
    """Takes tokens, one after another; ``content`` is the tokenizer.json with all of them."""

    def __init__(self, bpe: Bpe) -> None:
        self.bpe = bpe
        self.tokens: list[NewToken] = []
        self.known: list[str] = []
        """Words that were one token already."""
        self.first = bpe.num_ids
        """The first new id."""
        self._ids = dict(bpe.ids)
        self._strings = dict(bpe.strings)
        self._parts: dict[int, Ids] = {}
        self._merges: list[tuple[str, str]] = []
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        """Of a pair: the place of its merge, and what becomes of it."""

    def __contains__(self, string: str) -> bool:
        """Whether the vocabulary has it, old or new."""
        return string in self._ids

    def take(self, wanted: Wanted) -> None:
        for left, right in wanted.merges:
            self._take_merge(left, right=right, wanted=wanted)
        for word, cut in zip(wanted.words, self.bpe.words(wanted.words), strict=True):
            self._take_word(word, cut=cut, wanted=wanted)
        if not self.tokens:
            raise DataError(
                f"{wanted.path}: all {len(self.known)} tokens are in the vocabulary already; "
                "nothing is to be added."
            )

    def _take_merge(self, left: str, *, right: str, wanted: Wanted) -> None:
        missing = [text for text in (left, right) if text not in self._ids]
        if missing:
            raise DataError(
                f"{wanted.path}: {left} {right} joins {missing[0]}, which is neither in the "
                "vocabulary nor made by a line above; take the line out, put back the line that "
                "makes it, or use the model that the proposal was made for."
            )
        pair = (self._ids[left], self._ids[right])
        if (left, right) in self.bpe.merges or pair in self._ranks:
            self.known.append(left + right)
        else:
            self.merge(pair)

    def _take_word(self, word: str, *, cut: Sequence[Ids], wanted: Wanted) -> None:
        parts = tuple(number for ids in cut for number in ids)
        string = "".join(map(self.string, parts))
        if len(parts) == 1 or string in self or word in self:
            self.known.append(word)
            return
        if len(cut) > 1:
            self._new(word, parts=parts, is_merged=False, is_step=False)
            return
        if odd := self.bpe.spelled_in_bytes(parts):
            raise DataError(
                f"{wanted.path}: {word!r} has a character that the tokenizer does not know "
                f"(it makes {odd[0]} of it), and which cannot be merged; take the line out."
            )
        while len(ids := self.merged(parts)) > 1:
            # Where old tokens became another old one, old text would have other ids.
            new = (pair for pair in pairwise(ids) if "".join(map(self.string, pair)) not in self)
            self.merge(next(new, (ids[0], ids[1])), is_step=len(ids) > 2)

    def merged(self, ids: Ids) -> Ids:
        """What the new merges make of the old tokens of a word."""
        while True:
            found = [self._ranks[pair] for pair in pairwise(ids) if pair in self._ranks]
            if not found:
                return ids
            rank, made = min(found)
            ids = joined(ids, pair=self._pair(rank), made=made)

    def _pair(self, rank: int) -> tuple[int, int]:
        left, right = self._merges[rank]
        return self._ids[left], self._ids[right]

    def merge(self, pair: tuple[int, int], *, is_step: bool = False) -> int:
        """Join ``pair`` from now on; the id of what becomes of it."""
        left, right = (self._strings[number] for number in pair)
        made = self._ids.get(left + right)
        if made is None:
            parts = self.parts(pair[0]) + self.parts(pair[1])
            made = self._new(left + right, parts=parts, is_merged=True, is_step=is_step)
        self._ranks[pair] = (len(self._merges), made)
        self._merges.append((left, right))
        return made

    def _new(self, string: str, *, parts: Ids, is_merged: bool, is_step: bool) -> int:
        number = self.first + len(self.tokens)
        self.tokens.append(
            NewToken(id=number, string=string, parts=parts, is_merged=is_merged, is_step=is_step)
        )
        self._ids[string], self._strings[number], self._parts[number] = number, string, parts
        return number

    def parts(self, number: int) -> Ids:
        """The old tokens that any token stands for."""
        return self._parts.get(number, (number,))

    def string(self, number: int) -> str:
        """As the vocabulary writes a token."""
        return self._strings[number]

    def content(self) -> dict[str, Any]:
        """The whole tokenizer.json.

        Added tokens, old and new, stand in the vocabulary as well: the library numbers those that
        do not by the size of the vocabulary, which has changed.
        """
        stated: dict[str, Any] = json.loads(json.dumps(self.bpe.stated))
        model = stated["model"]
        model["vocab"] = dict(sorted(self._ids.items(), key=lambda item: item[1]))
        model["merges"] += (
            self._merges if _are_pairwise(model["merges"]) else map(" ".join, self._merges)
        )
        stated["added_tokens"] += [
            added_token(token) | {"id": token.id} for token in self.tokens if not token.is_merged
        ]
        return stated


def added_token(token: NewToken) -> dict[str, Any]:
    """As tokenizer_config.json writes it: text, found wherever it stands."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"content": token.string} | flags


def _are_pairwise(merges: Sequence[object]) -> bool:
    return not merges or not isinstance(merges[0], str)


def joined(ids: Sequence[int], *, pair: tuple[int, int], made: int) -> Ids:
    """``ids`` with every ``pair``, from the left, as one token."""
    found: list[int] = []
    n = 0
    while n < len(ids):
        together = tuple(ids[n : n + 2]) == pair
        found.append(made if together else ids[n])
        n += 2 if together else 1
    return tuple(found)
