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
from megacpt.tokenizer.backend import Encoded, failure_told, join


class SentencePieceBackend:
    eos_remedy = (
        "it was trained with eos_id=-1. Give the Hugging Face folder of its model, whose "
        "tokenizer_config.json names one"
    )

    def __init__(self, content: bytes, *, path: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ModelError(
                f"{path} is not a SentencePiece model ({error}); copy the file again from where "
                "the model came."
            ) from error
        read = self._processor
        ids = {"eos": read.eos_id(), "pad": read.pad_id(), "bos": read.bos_id()}
        # The library says -1 where a model has none.
        self.special_ids = {name: number for name, number in ids.items() if number >= 0}
        self.vocab_size = int(read.vocab_size())
        self.name = f"sentencepiece {sentencepiece.__version__}"
        self.identity = ""

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        add_bos = special and "bos" in self.special_ids
        with failure_told(self.name):
            return join(self._processor.encode(list(texts), out_type=int, add_bos=add_bos))

    def knows(self, number: int) -> bool:
        return 0 <= number < self.vocab_size

    def decode(self, ids: list[int]) -> str:
        return "".join(map(self._shown, self._runs(ids)))

    def _runs(self, ids: list[int]) -> list[list[int]]:
        """Runs of text, and control tokens each by itself: the library drops those."""
        runs: list[list[int]] = []
        for number in ids:
            if runs and not self._is_control(number) and not self._is_control(runs[-1][0]):
                runs[-1].append(number)
            else:
                runs.append([number])
        return runs

    def _is_control(self, number: int) -> bool:
        return bool(self._processor.is_control(number))

    def _shown(self, run: list[int]) -> str:
        if self._is_control(run[0]):
            return str(self._processor.id_to_piece(run[0]))
        return str(self._processor.decode(run))
