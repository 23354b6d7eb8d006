# SPDX-License-Identifier: Apache-2.0
"""What is kept of every document to find those that are alike: a few files for each piece.

    NNNNN.exact       uint64 (N, 2): hash of its words, whatever case, punctuation and spaces are
    NNNNN.priority    uint64 (N): which is kept of several, the lowest; held-out ones before all
    NNNNN.bands       uint64 (N, bands): a hash of each band's MinHash values
    NNNNN.shingles    uint32: the sorted hashes of the shingles of one document after another
    NNNNN.ends        int64 (N): where each document's end

Documents are numbered through the whole corpus, piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megacpt._C import ShingleFiles, Sketcher
from megacpt.curate import words
from megacpt.curate.deduplicate.files import PieceArrays, PieceFiles
from megacpt.curate.deduplicate.settings import Keep
from megacpt.curate.documents import Batch, Document
from megacpt.curate.sources import Kind

HELDOUT_BITS = 63
"""A priority below 2 to this power is that of a held-out document."""
Array = npt.NDArray[Any]
OF_ALL: Mapping[str, type] = {"exact": np.uint64, "priority": np.uint64}
OF_NEAR: Mapping[str, type] = {"bands": np.uint64, "shingles": np.uint32, "ends": np.int64}
"""Files that near duplicates ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchSettings:
    """All that a document's sketch depends on."""

    kinds: Sequence[Kind]
    """Of each piece."""
    keep: Keep
    score_key: str
    words: int
    """Of a shingle."""
    bands: int
    """0: near duplicates are not looked for."""
    rows: int

    def to_json(self) -> Mapping[str, Any]:
        return {
            "words_version": words.VERSION,
            "unicode": words.UNICODE,
            "keep": self.keep.value,
            "score_key": self.score_key if self.keep is Keep.best else None,
            "words": self.words,
            "bands": self.bands,
            "rows": self.rows,
        }

    def open(self) -> Callable[[int, Path], PieceSketch]:
        sketcher = Sketcher(words=self.words, bands=self.bands, rows=self.rows)
        return partial(PieceSketch, settings=self, sketcher=sketcher)


class PieceSketch:
    """Writes the files of one piece, batch after batch."""

    def __init__(
        self, number: int, stem: Path, *, settings: SketchSettings, sketcher: Sketcher
    ) -> None:
        self._settings, self._sketcher = settings, sketcher
        self._is_heldout = settings.kinds[number] is Kind.heldout
        self._files = PieceFiles(stem, kinds={**OF_ALL, **(OF_NEAR if settings.bands else {})})
        self._documents = self._shingles = 0

    def work(self, batch: Batch) -> dict[str, Array]:
        found = self._sketcher.sketch([document.text for document in batch.documents])
        return {
            "exact": _exact(found.normalised, offsets=found.text_offsets, batch=batch),
            "priority": self._priorities(batch),
            "bands": found.bands,
            "shingles": found.shingles,
            "ends": found.shingle_offsets[1:],
        }

    def _priorities(self, batch: Batch) -> Array:
        numbers = batch.numbers
        found = np.fromiter(
            (self._priority(d, number=n) for d, n in zip(batch.documents, numbers, strict=True)),
            np.uint64,
            count=len(numbers),
        )
        return found if self._is_heldout else found | np.uint64(1 << HELDOUT_BITS)

    def _priority(self, document: Document, *, number: int) -> int:
        """63 bits: the lower, the sooner it is kept."""
        if self._settings.keep is Keep.first:
            return number  # The piece goes in front of it when all are there.
        tie = xxhash.xxh3_64_intdigest(document.json_line()) >> 32
        if self._settings.keep is Keep.longest:
            length = min(len(document.text), (1 << 31) - 1)
            return ((1 << 31) - 1 - length) << 32 | tie
        return _descending(document.fields.get(self._settings.score_key)) << 31 | tie >> 1

    def settle(self, made: dict[str, Array]) -> None:
        made["ends"] = made["ends"] + self._shingles
        self._documents += len(made["exact"])
        self._shingles += len(made["shingles"])
        self._files.add(made)

    def finish(self) -> dict[str, Any]:
        self._files.finish()
        return {"documents": self._documents}


def _exact(normalised: Array, *, offsets: Array, batch: Batch) -> Array:
    """XXH3, 128 bits, of the words of each document; of one without words, of its text."""
    content, ends = normalised.data, offsets.tolist()
    digest = xxhash.xxh3_128_digest
    digests = [
        digest(content[start:end])
        if end > start
        else digest(document.text.encode("utf-8", "surrogatepass"))
        for start, end, document in zip(ends, ends[1:], batch.documents, strict=False)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def _descending(score: object) -> int:
    """32 bits that fall as a number rises; of what is no number they are the largest."""
    if isinstance(score, bool) or not isinstance(score, int | float):
        return (1 << 32) - 1
    (bits,) = np.asarray([score], dtype=np.float32).view(np.uint32).tolist()
    rising = bits ^ ((1 << 32) - 1 if bits >> 31 else 1 << 31)
    return (1 << 32) - 1 - int(rising)


class Sketches:
    """Those of all documents, as files; nothing is read before it is asked for."""

    def __init__(self, folder: Path, *, records: Sequence[Mapping[str, Any]], keep: Keep) -> None:
        self._arrays = PieceArrays(folder=folder, kinds={**OF_ALL, **OF_NEAR}, records=records)
        self._keep = keep
        self.firsts = self._arrays.before("documents")
        """Number of the first document of each piece, and of all documents."""

    @property
    def num_documents(self) -> int:
        return self.firsts[-1]

    def arrays(self, name: str) -> Iterator[tuple[int, Array]]:
        """Of each piece that has documents: the number of the first, and the file."""
        last = self.num_documents
        firsts = [*(piece.first for piece in self._arrays.pieces()), last]
        for piece, after in zip(self._arrays.pieces(), firsts[1:], strict=True):
            values, count = piece[name], after - piece.first
            yield piece.first, values.reshape(count, -1) if name in ("exact", "bands") else values

    def priorities(self, documents: Array) -> Array:
        """Of some documents, in any order."""
        found = np.empty(len(documents), np.uint64)
        for first, values in self.arrays("priority"):
            mine = (documents >= first) & (documents < first + len(values))
            found[mine] = values[documents[mine] - first]
        if self._keep is Keep.first:
            own = np.uint64(1 << HELDOUT_BITS) & found
            return own | documents.astype(np.uint64)
        return found

    def shingle_files(self) -> ShingleFiles:
        pieces = list(self._arrays.pieces())
        return ShingleFiles(
            [str(piece.stem.with_suffix(".shingles")) for piece in pieces],
            ends=[piece["ends"] for piece in pieces],
            firsts=[piece.first for piece in pieces],
        )
