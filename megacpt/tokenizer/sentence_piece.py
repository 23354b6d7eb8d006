# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece .model file.

A document begins with BOS where the model has one, as the Hugging Face tokenizers of the same
models do. Names of control tokens (``<s>``) inside a text are plain text to this library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import Encoded, join


class SentencePieceBackend:
    def __init__(self, content: bytes, *, path: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ModelError(
                f"{path} is not a SentencePiece model ({error}); copy the file again from where "
                "the model came."
            ) from error
        self.name = f"sentencepiece {sentencepiece.__version__}"

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        add_bos = special and self.bos_id is not None
        return join(self._processor.encode(list(texts), out_type=int, add_bos=add_bos))

    def decode(self, ids: list[int]) -> str:
        return "".join(self._shown(part) for part in self._parts(ids))

    def _parts(self, ids: list[int]) -> list[list[int]]:
        """Runs of text, and control tokens each by itself: the library drops those."""
        parts: list[list[int]] = []
        for number in ids:
            if parts and not self._is_control(number) and not self._is_control(parts[-1][0]):
                parts[-1].append(number)
            else:
                parts.append([number])
        return parts

    def _is_control(self, number: int) -> bool:
        return bool(self._processor.is_control(number))

    def _shown(self, part: list[int]) -> str:
        if self._is_control(part[0]):
            return str(self._processor.id_to_piece(part[0]))
        return str(self._processor.decode(part))

    @property
    def vocab_size(self) -> int:
        return int(self._processor.vocab_size())

    @property
    def bos_id(self) -> int | None:
        return _or_none(self._processor.bos_id())

    @property
    def eos_id(self) -> int | None:
        return _or_none(self._processor.eos_id())

    @property
    def pad_id(self) -> int | None:
        return _or_none(self._processor.pad_id())


def _or_none(number: int) -> int | None:
    """The library says -1 where there is none."""
    return number if number >= 0 else None
