# SPDX-License-Identifier: Apache-2.0
"""Passages of input to tokens, and the proof that the fast backend makes the reference's tokens.

fastokens is another implementation of tokenizer.json than ``tokenizers``. So a part of the corpus
is encoded by both while the work is done: excerpts of two documents in every passage (about 2 MiB)
and of four in the first passage of a piece, about 5 % of the time. Which ones depends on
the input alone. A single id that differs ends the work, which is then done again with
``tokenizers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.corpus.documents import BadLine, Document, Parsed, Passage, parse_lines, parse_values
from megacpt.errors import DataError
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import Encoded, Encoder
from megacpt.tokenizer.fast import first_differing_text

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
        encoded = self.backend.encode([*texts, *checked], special=self._special)
        if checked:
            self._check(encoded.texts(len(texts), stop=len(texts) + len(checked)), texts=checked)
        tokens, lengths = self._ended(joined(encoded.texts(0, stop=len(texts)), firsts=firsts))
        return EncodedPassage(
            passage=passage,
            tokens=tokens,
            lengths=lengths,
            bad=[*passage.bad, *parsed.bad],
            empty_documents=len(parsed.texts) - lengths.size,
            checked_documents=len(checked),
            checked_bytes=sum(len(text.encode()) for text in checked),
        )

    def _parse(self, passage: Passage) -> Parsed:
        line, limit = passage.first_line, self._max_bytes
        if isinstance(passage.content, bytes):
            return parse_lines(passage.content, first_line=line, key=self._key, limit=limit)
        lines = passage.lines or range(line, line + len(passage.content))
        return parse_values(passage.content, lines=lines, limit=limit)

    def _check(self, encoded: Encoded, *, texts: Sequence[str]) -> None:
        """Compare with the reference."""
        expected = self._tokenizer.backend.encode(texts, special=self._special)
        different = first_differing_text(encoded, expected=expected)
        if different is not None:
            raise BackendDiffersError(texts[different])

    def _ended(
        self, encoded: Encoded
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int32]]:
        """Tokens with EOS after each document that does not have it there, and the lengths."""
        # Negative ids are large as unsigned ones, so no vocabulary has them.
        ended = _C.end_documents(
            encoded.ids.view(np.uint32),
            encoded.bounds,
            eos_id=self._eos_id,
            vocab_size=self._tokenizer.vocab_size,
            dtype=self._dtype,
        )
        if isinstance(ended, int):
            raise DataError(
                f"tokenizer {self._tokenizer.folder} made id {ended}, but its vocabulary has "
                f"{self._tokenizer.vocab_size}; its files contradict each other, copy them again."
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
