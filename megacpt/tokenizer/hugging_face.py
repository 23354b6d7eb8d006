# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json through the ``tokenizers`` library: the reference for every faster way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import tokenizers

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import Encoded, Encoder, join

IDS = 1 << 32
"""The library takes no other numbers."""
FEW = 8
"""Texts that are not worth waking the library's threads for, which may all have other work."""


class HuggingFaceBackend:
    """A document begins and ends as the file's own post-processor says (most often with BOS)."""

    def __init__(self, content: bytes, *, path: Path) -> None:
        self._tokenizer = _parse(content, path=path)
        # A stored truncation would cut documents, stored padding would lengthen them, both
        # silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.content = content
        self.fast: Future[Encoder | None] | None = None
        """Set where fastokens reads the file meanwhile."""
        self.name = f"tokenizers {tokenizers.__version__}"

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        if len(texts) <= FEW:
            found = [self._tokenizer.encode(text, add_special_tokens=special) for text in texts]
        else:
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return join([encoding.ids for encoding in found])

    def knows(self, number: int) -> bool:
        return 0 <= number < IDS and self._tokenizer.id_to_token(number) is not None

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def added_tokens(self) -> list[str]:
        """What is looked for in the text before all else, in the order of the ids."""
        found = self._tokenizer.get_added_tokens_decoder()
        return [found[number].content for number in sorted(found)]

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def _parse(content: bytes, *, path: Path) -> tokenizers.Tokenizer:
    # The library raises bare Exception for anything it cannot parse.
    try:
        return tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:
        raise ModelError(
            f"{path} is not a tokenizer the tokenizers library {tokenizers.__version__} can read: "
            f"{error}; copy the file again from where the model came."
        ) from error
