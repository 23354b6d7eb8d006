# SPDX-License-Identifier: Apache-2.0
"""Passages of input to tokens, and the proof that the fast backend makes the reference's tokens.

fastokens is another implementation of tokenizer.json than ``tokenizers``. So a part of the corpus
is encoded by both while the work is done: excerpts of two documents in every passage (about 2 MiB)
and of four in the first passage of a piece, about 5 % of the time. Which ones depends on
the input alone. A single id that differs ends the work, which is then done again with
``tokenizers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.corpus.documents import (
    BadLine,
    ColumnValue,
    Document,
    ErrorKind,
    Parsed,
    Passage,
    numbers,
    parse,
)
from megacpt.corpus.not_learned import FIELD, NOT_LEARNED, TEXT, has_spans, unread
from megacpt.errors import DataError
from megacpt.shards.tokenize.spans import mask_of
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import Encoded, EncodeError, Encoder, encode_each, join
from megacpt.tokenizer.fast import differing_text

EXCERPT_CHARACTERS = 256
EXCERPTS, EXCERPTS_AT_FIRST = 2, 4
"""Excerpts of a passage, and of the first passage of a piece."""
STRIDE = 1_000_003
"""Prime: spreads the excerpts over the documents and within them."""
LONG_TOKENS = 100_000
"""Documents over this are counted, because a model sees at most a part of them at once."""


class BackendDiffersError(Exception):
    """fastokens and tokenizers made different ids of this text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPassage:
    """The documents of one passage; bounds and tokens as they go into the shard."""

    passage: Passage
    tokens: npt.NDArray[np.integer[Any]]
    lengths: npt.NDArray[np.int32]
    mask_T: npt.NDArray[np.uint8] | None
    """0 for tokens that are not learned; None where all are."""
    bad: list[BadLine]
    empty_documents: int
    checked_documents: int
    checked_bytes: int


class DocumentEncoder:
    """Thread-safe: several passages may be encoded at the same time."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        fast: Encoder | None,
        key: str,
        append_eos: bool,
        special: bool,
        max_bytes: int,
        dtype: np.dtype[np.integer[Any]],
    ) -> None:
        self._tokenizer, self._fast = tokenizer, fast
        self._key, self._special, self._max_bytes = key, special, max_bytes
        self._eos_id = tokenizer.eos_id if append_eos else None
        self._dtype = dtype
        self._vocab_size = tokenizer.backend.vocab_size

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    @property
    def backend(self) -> Encoder:
        return self._tokenizer.backend if self._fast is None else self._fast

    def encode(self, passage: Passage, *, number: int) -> EncodedPassage:
        """``number`` counts the passages of a piece from 0."""
        parsed = self._parse(passage)
        texts, firsts = sentences(parsed.texts)
        checked = excerpts(texts, number=number) if texts and self.is_fast else []
        failed: list[BadLine] = []
        try:
            encoded = joined(self.backend.encode(texts, special=self._special), firsts=firsts)
        except EncodeError:
            encoded, failed = self._encode_each(passage)
        self._check(checked)
        masks = self._masks(passage, encoded=encoded, failed=failed) if has_spans(passage) else None
        tokens, lengths = self._ended(encoded.without(self._nothing))
        return EncodedPassage(
            passage=passage,
            tokens=tokens,
            lengths=lengths,
            mask_T=laid_end_to_end(masks, lengths=lengths) if masks is not None else None,
            bad=sorted([*passage.bad, *parsed.bad, *failed], key=attrgetter("line")),
            empty_documents=len(parsed.texts) - lengths.size - len(failed),
            checked_documents=len(checked),
            checked_bytes=sum(len(text.encode()) for text in checked),
        )

    @cached_property
    def _nothing(self) -> npt.NDArray[np.integer[Any]]:
        """Ids of a text that holds nothing: those that begin each document."""
        (row,) = encode_each([""], encoder=self._tokenizer.backend, special=self._special)
        if isinstance(row, EncodeError) or np.any(row >= self._vocab_size):
            return np.zeros(0, dtype=np.int32)
        return row

    def _encode_each(self, passage: Passage) -> tuple[Encoded, list[BadLine]]:
        """The documents that can be encoded, and the lines of the others."""
        rows: list[npt.NDArray[np.integer[Any]]] = []
        failed: list[BadLine] = []
        for line, content, texts in self._lines(passage):
            # fastokens may fail where the reference does not.
            self._check(texts)
            found = encode_each(texts, encoder=self._tokenizer.backend, special=self._special)
            errors = [row for row in found if isinstance(row, EncodeError)]
            if errors:
                problem = f"cannot be encoded by {errors[0]}; remove it"
                kind = ErrorKind.not_encoded
                failed.append(BadLine(line=line, kind=kind, problem=problem, content=content))
            else:
                rows.append(np.concatenate([r for r in found if not isinstance(r, EncodeError)]))
        return join(rows), failed

    def _masks(
        self, passage: Passage, *, encoded: Encoded, failed: Sequence[BadLine]
    ) -> list[npt.NDArray[np.uint8]]:
        """Which tokens of each document are learned, of those that hold some."""
        if self._key != TEXT:
            raise unread(f"lines with {NOT_LEARNED} are read under the key {self._key!r}")
        left_out = {bad.line for bad in failed}
        lines = [
            (content, "".join(texts))
            for number, content, texts in self._lines(passage)
            if number not in left_out
        ]
        # The ids of what has spans must be the reference's, which knows their places.
        self._check([text for content, text in lines if FIELD in content])
        return [
            mask_of(ids_T, line=content, text=text, tokenizer=self._tokenizer)
            for ids_T, (content, text) in zip(encoded.rows(), lines, strict=True)
            if not np.array_equal(ids_T, self._nothing)
        ]

    def _lines(self, passage: Passage) -> Iterator[tuple[int, bytes, list[str]]]:
        """Number, content and texts of the lines that hold some."""
        content = passage.content
        values: Sequence[bytes | list[ColumnValue]] = (
            content.split(b"\n") if isinstance(content, bytes) else [[value] for value in content]
        )
        for number, value in zip(numbers(passage, count=len(values)), values, strict=True):
            one = replace(passage, content=value, first_line=number, lines=None)
            texts = sentences(self._parse(one).texts)[0]
            if texts:
                yield number, value if isinstance(value, bytes) else "".join(texts).encode(), texts

    def _parse(self, passage: Passage) -> Parsed:
        return parse(passage, key=self._key, limit=self._max_bytes)

    def _check(self, texts: Sequence[str]) -> None:
        """Compare the fast backend with the reference."""
        if self._fast is None or not texts:
            return
        different = differing_text(
            texts, fast=self._fast, reference=self._tokenizer.backend, special=self._special
        )
        if different is not None:
            raise BackendDiffersError(different)

    def _ended(
        self, encoded: Encoded
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int32]]:
        """Tokens with EOS after each document that does not have it there, and the lengths."""
        # Negative ids are large as unsigned ones, so no vocabulary has them.
        ended = _C.end_documents(
            encoded.ids.view(np.uint32),
            encoded.bounds,
            eos_id=self._eos_id,
            vocab_size=self._vocab_size,
            dtype=self._dtype,
        )
        if isinstance(ended, int):
            raise DataError(
                f"tokenizer {self._tokenizer.folder} made id {ended}, but its vocabulary has "
                f"{self._vocab_size}; its files contradict each other, copy them again."
            )
        return ended


def sentences(documents: Sequence[Document]) -> tuple[list[str], list[int]]:
    """What is encoded, empty texts left out, and which of it begins a document."""
    texts: list[str] = []
    firsts: list[int] = []
    for document in documents:
        found = [text for text in ((document,) if isinstance(document, str) else document) if text]
        if found:
            firsts.append(len(texts))
            texts += found
    return texts, firsts


def laid_end_to_end(
    masks: Sequence[npt.NDArray[np.uint8]], *, lengths: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint8]:
    """One mask of documents of these lengths; EOS that was added to one is learned."""
    mask_T = np.ones(int(lengths.sum()), dtype=np.uint8)
    for mask, end, length in zip(masks, np.cumsum(lengths), lengths, strict=True):
        mask_T[end - length : end - length + mask.size] = mask
    return mask_T


def joined(encoded: Encoded, *, firsts: Sequence[int]) -> Encoded:
    """The documents that begin with these texts."""
    return Encoded(ids=encoded.ids, bounds=encoded.bounds[[*firsts, len(encoded.bounds) - 1]])


def excerpts(texts: Sequence[str], *, number: int) -> list[str]:
    """Some characters of a few of the texts."""
    found = []
    for n in range(EXCERPTS if number else EXCERPTS_AT_FIRST):
        place = (number * EXCERPTS_AT_FIRST + n) * STRIDE
        text = texts[place % len(texts)]
        start = place % max(len(text) - EXCERPT_CHARACTERS + 1, 1)
        found.append(text[start : start + EXCERPT_CHARACTERS])
    return found
