# SPDX-License-Identifier: Apache-2.0
"""Take the lines out of documents that were there before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.curate.deduplicate.files import PieceArrays
from megacpt.curate.deduplicate.lines import LineReader
from megacpt.curate.deduplicate.settings import LinesConfig
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.step import KEPT, DocumentVerdict, changed, dropped

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedLines:
    """What was found of them."""

    arrays: PieceArrays
    flags: Path
    """uint8: of every line that counts, whether it was there before."""
    settings: LinesConfig

    def open(self) -> LineCutter:
        return LineCutter(self)


class LineCutter:
    def __init__(self, found: RepeatedLines) -> None:
        self._settings = found.settings
        self._flags = np.memmap(found.flags, np.uint8, mode="r")
        self._pieces = {piece.first: piece for piece in found.arrays.pieces()}
        self._firsts = found.arrays.before("documents")
        self._reader = LineReader(words=found.settings.words)

    def judge(self, batch: DocumentBatch) -> list[DocumentVerdict]:
        verdicts = [KEPT] * len(batch.documents)
        if not batch.documents:
            return verdicts
        piece = self._pieces[self._firsts[batch.piece]]
        ends = piece.starts["lines"] + piece["line_ends"]
        for at, number in enumerate(batch.numbers):
            start = int(ends[number - 1]) if number else piece.starts["lines"]
            flags = np.asarray(self._flags[start : int(ends[number])])
            if flags.any():
                verdicts[at] = self._without(batch.documents[at], flags=flags)
        return verdicts

    def _without(self, document: Document, *, flags: Array) -> DocumentVerdict:
        lines = self._reader.read([document.text])
        goes = np.zeros(len(lines.counted), dtype=bool)
        goes[lines.counted] = flags.astype(bool)
        share = float(lines.num_words[goes].sum() / lines.num_words.sum())
        detail = {"lines": int(goes.sum()), "share_of_words": round(share, 4)}
        if share > self._settings.share:
            return dropped("lines", **detail)
        (own,) = lines.own
        left = [line for line, is_out in zip(own, goes.tolist(), strict=True) if not is_out]
        return changed(document.with_text("\n".join(left)), rule="lines", **detail)
