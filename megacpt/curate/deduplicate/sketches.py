# SPDX-License-Identifier: Apache-2.0
"""What is kept of every document to find those that are alike: a few files for each piece.

    NNNNN.exact       uint64 (N, 2): hash of its words, whatever case, punctuation and spaces are
    NNNNN.priority    uint64 (N): which is kept of several, the lowest; held-out ones before all
    NNNNN.bytes       uint32 (N): of its text, in UTF-8
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
import xxhash

from megacpt._C import ShingleFiles, Sketcher
from megacpt.curate import words
from megacpt.curate.deduplicate.files import Array, PieceArrays, PieceFiles
from megacpt.curate.deduplicate.settings import Keep
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Kind

HELDOUT_BITS = 63
"""A priority below 2 to this power is that of a held-out document."""
LENGTH_MAX = np.uint64((1 << 31) - 1)
"""Longer documents count as long as each other."""
OF_ALL: Mapping[str, type] = {"exact": np.uint64, "priority": np.uint64, "bytes": np.uint32}
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
            **words.STATED,
            "keep": self.keep.value,
            "score_key": self.score_key if self.keep is Keep.best else None,
            "words": self.words,
            "bands": self.bands,
            "rows": self.rows,
        }

    def open(self) -> Callable[[Path], PieceSketch]:
        sketcher = Sketcher(words=self.words, bands=self.bands, rows=self.rows)
        return partial(PieceSketch, settings=self, sketcher=sketcher)


class PieceSketch:
    """Writes the files of one piece, batch after batch."""

    def __init__(self, stem: Path, *, settings: SketchSettings, sketcher: Sketcher) -> None:
        self._settings, self._sketcher = settings, sketcher
        self._files = PieceFiles(stem, kinds={**OF_ALL, **(OF_NEAR if settings.bands else {})})
        self._documents = self._shingles = 0
        self._as_written = True

    def work(self, batch: DocumentBatch) -> dict[str, Array]:
        documents = batch.documents
        is_lines = isinstance(batch.passage.content, bytes) and not batch.bad
        if not is_lines or not all(document.is_as_written for document in documents):
            self._as_written = False
        found = self._sketcher.sketch(
            [document.text for document in documents], shingles=self._settings.bands > 0
        )
        return {
            "bytes": np.fromiter((d.num_bytes for d in documents), np.uint32, len(documents)),
            "exact": _exact(found.normalised, offsets=found.text_offsets, batch=batch),
            "priority": self._priorities(batch),
            "bands": found.bands,
            "shingles": found.shingles,
            "ends": found.shingle_offsets[1:],
        }

    def _priorities(self, batch: DocumentBatch) -> Array:
        found = self._ranks(batch)
        is_heldout = self._settings.kinds[batch.piece] is Kind.heldout
        return found if is_heldout else found | np.uint64(1 << HELDOUT_BITS)

    def _ranks(self, batch: DocumentBatch) -> Array:
        """63 bits: the lower, the sooner it is kept."""
        documents, count, keep = batch.documents, len(batch.documents), self._settings.keep
        if keep is Keep.first:
            # The piece goes in front of it when all are there.
            return np.asarray(batch.numbers, np.uint64)
        digest, half = xxhash.xxh3_64_intdigest, np.uint64(32)
        ties = np.fromiter((digest(d.json_line()) for d in documents), np.uint64, count) >> half
        if keep is Keep.longest:
            lengths = np.fromiter((len(d.text) for d in documents), np.uint64, count)
            return (LENGTH_MAX - np.minimum(lengths, LENGTH_MAX)) << half | ties
        scores = (_descending(d.fields.get(self._settings.score_key)) for d in documents)
        return np.fromiter(scores, np.uint64, count) << np.uint64(31) | ties >> np.uint64(1)

    def settle(self, made: dict[str, Array]) -> None:
        made["ends"] = made["ends"] + self._shingles
        self._documents += len(made["exact"])
        self._shingles += len(made["shingles"])
        self._files.add(made)

    def finish(self) -> dict[str, Any]:
        files = self._files.finish()
        return {"documents": self._documents, "as_written": self._as_written, "files": files}


def _exact(normalised: Array, *, offsets: Array, batch: DocumentBatch) -> Array:
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
        self._wholes: dict[str, Array] = {}
        self.as_written = frozenset(n for n, record in enumerate(records) if record["as_written"])
        """Pieces all of whose documents are as they would be written."""
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

    def whole(self, name: str) -> Array:
        """Of all documents, to be looked up in any order."""
        if name not in self._wholes:
            values = self._arrays.whole(name)
            self._wholes[name] = values.reshape(-1, 2) if name == "exact" else values
        return self._wholes[name]

    def file(self, name: str) -> Path:
        """Of ``whole``."""
        self.whole(name)
        return self._arrays.folder / f"all.{name}"

    def priorities(self, documents: Array) -> Array:
        """Of some documents, in any order."""
        found: Array = self.whole("priority")[documents]
        if self._keep is Keep.first:
            own = np.uint64(1 << HELDOUT_BITS) & found
            return own | documents.astype(np.uint64)
        return found

    def shingle_files(self) -> ShingleFiles:
        pieces = list(self._arrays.pieces())
        return ShingleFiles(
            [str(piece.stem.with_suffix(".shingles")) for piece in pieces],
            ends=np.split(self.whole("ends"), [piece.first for piece in pieces[1:]]),
            firsts=[piece.first for piece in pieces],
        )
