# SPDX-License-Identifier: Apache-2.0
"""Lines that are repeated, in a document or in others: the first of each stays.

    NNNNN.lines       uint64: a hash of each line of enough words, of one document after another
    NNNNN.line_ends   int64 (N): where each document's end

The first is that of the document that would be kept of several (its priority), and in it the first.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megacpt._C import Sketcher
from megacpt.curate.deduplicate.alike import STAYS, State
from megacpt.curate.deduplicate.buckets import bucketed, deal
from megacpt.curate.deduplicate.settings import LinesConfig
from megacpt.curate.deduplicate.sketches import HELDOUT_BITS, Sketches
from megacpt.curate.documents import Document
from megacpt.curate.step import KEPT, Verdict, changed, dropped

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineHashes:
    """Of some documents, and where each document's end."""

    hashes: Array
    ends: Array


class LineHasher:
    """Hashes lines by their words; those of fewer than ``words`` are not looked at."""

    def __init__(self, *, words: int) -> None:
        self._words = words
        self._sketcher = Sketcher()

    def of(self, texts: Sequence[str]) -> LineHashes:
        lines = [text.split("\n") for text in texts]
        found = self._sketcher.sketch([line for own in lines for line in own], shingles=False)
        counted = found.num_words >= self._words
        content, ends = memoryview(found.normalised), found.text_offsets
        hashes = np.fromiter(
            (
                xxhash.xxh3_64_intdigest(content[ends[n] : ends[n + 1]])
                for n in np.flatnonzero(counted).tolist()
            ),
            np.uint64,
            count=int(counted.sum()),
        )
        of_lines = np.concatenate([[0], np.cumsum(counted)])
        last = np.cumsum([len(own) for own in lines], dtype=np.int64)
        return LineHashes(hashes=hashes, ends=of_lines[last].astype(np.int64))

    def counted(self, lines: Sequence[str]) -> Array:
        """Whether each is looked at."""
        counted: Array = self._sketcher.sketch(list(lines), normalised=False, shingles=False).num_words >= self._words
        return counted
