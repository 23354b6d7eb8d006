# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json through the ``tokenizers`` library: the reference for every faster way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import Encoded, EncodeError, Encoder, failure_told, join
from megacpt.tokenizer.identity import digest

IDS = 1 << 32
"""The library takes no other numbers."""
FEW = 8
"""Texts that are not worth waking the library's threads for, which may all have other work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Ids of a text, and the characters that each of them stands for."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    """One past the last; neither array falls, also where a token stands for no character."""

    def within(self, spans: Iterable[tuple[int, int]]) -> npt.NDArray[np.uint8]:
        """1 for each token from the first with a character of a span to the last."""
        mask_T = np.zeros(self.ids.size, dtype=np.uint8)
        for begin, end in spans:
            first = int(np.searchsorted(self.ends, begin, side="right"))
            stop = int(np.searchsorted(self.starts, end, side="left"))
            mask_T[first:stop] = 1
        return mask_T


class HuggingFaceBackend:
    """A document begins and ends as the file's own post-processor says (most often with BOS)."""

    eos_remedy = "set eos_token in its tokenizer_config.json"

    def __init__(self, content: bytes, *, path: Path) -> None:
        self._tokenizer = _parse(content, path=path)
        # A stored truncation would cut documents, stored padding would lengthen them, both
        # silently.
        self.pad_token = (self._tokenizer.padding or {}).get("pad_token")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.content = content
        """A tokenizer.json of what this encodes, as it was read where nothing was changed."""
        self.additions: list[str] = []
        """What other files than tokenizer.json added."""
        self.splits_special = False
        self.fast: Future[Encoder | None] | None = None
        """Set where fastokens reads the file meanwhile."""
        self.dropout = getattr(self._tokenizer.model, "dropout", None)
        if self.dropout is not None:
            # Drawn anew each time: the same text would have other ids in every shard.
            self._tokenizer.model.dropout = None
            self._changed()
        self.name = f"tokenizers {tokenizers.__version__}"

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        with failure_told(self.name):
            if len(texts) <= FEW:
                found = [self._tokenizer.encode(text, add_special_tokens=special) for text in texts]
            else:
                found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return join([encoding.ids for encoding in found])

    def locate(self, texts: Sequence[str]) -> list[Located | EncodeError]:
        """Ids and places of each text as it is, without what the tokenizer's own rule adds."""
        try:
            with failure_told(self.name):
                found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except EncodeError as error:
            if len(texts) == 1:
                return [error]
            middle = len(texts) // 2
            return [*self.locate(texts[:middle]), *self.locate(texts[middle:])]
        return [_located(encoding) for encoding in found]

    def knows(self, number: int) -> bool:
        return 0 <= number < IDS and self._tokenizer.id_to_token(number) is not None

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def identity(self) -> str:
        beside = "special tokens are split" if self.splits_special else ""
        return digest(self._tokenizer.to_str(), beside=beside)

    @property
    def added_tokens(self) -> dict[int, tokenizers.AddedToken]:
        """What is looked for in the text before all else, in the order of the ids."""
        found = self._tokenizer.get_added_tokens_decoder()
        return {number: found[number] for number in sorted(found)}

    @property
    def has_normalizer(self) -> bool:
        return self._tokenizer.normalizer is not None

    def add(self, tokens: Sequence[tokenizers.AddedToken]) -> None:
        """Look for these, too; those without an id get the next ones."""
        before = self.added_tokens
        self._tokenizer.add_tokens(list(tokens))
        new = [f"{n} {t!r}" for n, t in self.added_tokens.items() if repr(t) != repr(before.get(n))]
        if new:
            self.additions += new
            self._changed()

    def split_special(self) -> None:
        """Take special tokens in a text as the characters that they are."""
        self._tokenizer.encode_special_tokens = self.splits_special = True
        self.additions.append("special tokens are split")

    def _changed(self) -> None:
        self.content = self._tokenizer.to_str().encode()
        self.fast = None

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def _located(encoding: tokenizers.Encoding) -> Located:
    places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return Located(
        ids=np.array(encoding.ids, dtype=np.int32),
        starts=np.maximum.accumulate(places[:, 0]),
        ends=np.maximum.accumulate(places[:, 1]),
    )


def _parse(content: bytes, *, path: Path) -> tokenizers.Tokenizer:
    # The library raises bare Exception for anything it cannot parse.
    try:
        return tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:
        raise ModelError(
            f"{path} is not a tokenizer the tokenizers library {tokenizers.__version__} can read: "
            f"{error}; copy the file again from where the model came."
        ) from error
