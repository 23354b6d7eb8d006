# SPDX-License-Identifier: Apache-2.0
"""Lines that are repeated, in a document or in others: the first of each stays, all others are
taken out.

    NNNNN.lines       uint64: a hash of each line of enough words, of one document after another
    NNNNN.line_ends   int64 (N): where each document's end

The first is that of the document that would be kept of several (its priority), and in it the first.
Lines of held-out sets, and of documents that go, do not count.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megacpt._C import Sketcher
from megacpt.curate.deduplicate.alike import STAYS, State
from megacpt.curate.deduplicate.buckets import bucketed, deal
from megacpt.curate.deduplicate.files import Array, PieceArrays, PieceFiles
from megacpt.curate.deduplicate.settings import LinesConfig
from megacpt.curate.deduplicate.sketches import HELDOUT_BITS, Sketches
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.step import KEPT, DocumentVerdict, changed, dropped

FILES = {"lines": np.uint64, "line_ends": np.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """All that the hashes of a document's lines depend on."""

    words: int

    def to_json(self) -> Mapping[str, Any]:
        return {"words": self.words}

    def open(self) -> Callable[[Path], PieceLines]:
        return partial(PieceLines, reader=LineReader(words=self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Of some documents: all lines, and which have enough words."""

    own: list[list[str]]
    """Of each document."""
    num_words: Array
    counted: Array
    hashes: Array
    """Of those that count."""
    ends: Array
    """Of each document's among these."""


class LineReader:
    """Lines by their words; those of fewer than ``words`` do not count."""

    def __init__(self, *, words: int) -> None:
        self._words, self._sketcher = words, Sketcher()

    def read(self, texts: Sequence[str]) -> Lines:
        own = [text.split("\n") for text in texts]
        every = [line for lines in own for line in lines]
        found = self._sketcher.sketch(every, normalised=False, shingles=False, hashes=True)
        counted = found.num_words >= self._words
        before = np.concatenate([[0], np.cumsum(counted)])
        return Lines(
            own=own,
            num_words=found.num_words,
            counted=counted,
            hashes=found.hashes[counted],
            ends=before[np.cumsum([len(lines) for lines in own], dtype=np.int64)],
        )


class PieceLines:
    def __init__(self, stem: Path, *, reader: LineReader) -> None:
        self._reader, self._files = reader, PieceFiles(stem, kinds=FILES)
        self._documents = self._lines = 0

    def work(self, batch: DocumentBatch) -> Lines:
        return self._reader.read([document.text for document in batch.documents])

    def settle(self, made: Lines) -> None:
        self._files.add({"lines": made.hashes, "line_ends": made.ends + self._lines})
        self._documents += len(made.own)
        self._lines += len(made.hashes)

    def finish(self) -> dict[str, Any]:
        files = self._files.finish()
        return {"documents": self._documents, "lines": self._lines, "files": files}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Finds the lines that were there before."""

    arrays: PieceArrays
    """Of the pieces' lines."""
    sketches: Sketches
    state: State
    folder: Path
    memory_bytes: int

    def find(self, flags: Path) -> None:
        """Write FLAGS, uint8: of every line that counts, whether it was there before."""
        num_lines = self.arrays.total("lines")
        repeated = np.memmap(flags, np.uint8, mode="w+", shape=(max(num_lines, 1),))
        nobody = np.zeros(max(num_lines, 1), np.uint8)
        for path in deal(
            self._keys(),
            folder=self.folder,
            num_documents=num_lines,
            memory_bytes=self.memory_bytes,
        ):
            found = bucketed(path, rules=nobody)
            lines = np.sort(found.members)
            hashes, documents = self._of(lines)
            priorities = self.sketches.priorities(documents)
            order = np.lexsort((lines, documents, priorities, hashes))
            same = hashes[order][1:] == hashes[order][:-1]
            repeated[lines[order][1:][same]] = 1
        repeated.flush()
        shutil.rmtree(self.folder)

    def _keys(self) -> Iterator[tuple[Array, Array]]:
        """Of lines of documents that stay and are trained on."""
        for piece in self.arrays.pieces():
            ends, hashes = piece["line_ends"], piece["lines"]
            documents = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
            here = slice(piece.first, piece.first + len(ends))
            takes_part = self.state.rules[here] == STAYS
            everyone = np.arange(here.start, here.stop)
            takes_part &= self.sketches.priorities(everyone) >= np.uint64(1 << HELDOUT_BITS)
            (mine,) = np.nonzero(takes_part[documents])
            yield hashes[mine], piece.starts["lines"] + mine

    def _of(self, lines: Array) -> tuple[Array, Array]:
        """Hash and document of each of these lines, which rise."""
        hashes, documents = np.empty(len(lines), np.uint64), np.empty(len(lines), np.int64)
        for piece in self.arrays.pieces():
            start = piece.starts["lines"]
            here = slice(*np.searchsorted(lines, [start, start + len(piece["lines"])]))
            own = lines[here] - start
            hashes[here] = piece["lines"][own]
            documents[here] = piece.first + np.searchsorted(piece["line_ends"], own, side="right")
        return hashes, documents


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
