# SPDX-License-Identifier: Apache-2.0
"""Raw pairs of questions and answers among what is trained on, where nobody has asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from megacpt.corpus.formats import FileFormat
from megacpt.corpus.reader import ExtentReader
from megacpt.curate.documents import Document, read_documents
from megacpt.curate.rewrite.markup import read_markup
from megacpt.curate.rewrite.shapes import RECORD, is_pair
from megacpt.curate.sources import Corpus, SourcePiece
from megacpt.curate.step import is_trained_on
from megacpt.errors import ConfigError
from megacpt.text import listed

SAMPLE = 1000
"""Documents at the beginning of a source that are looked at."""
BYTES_MAX = 1 << 26


def require_no_raw_pairs(corpus: Corpus) -> None:
    """``ConfigError`` where a source is of records, or its first documents mostly are pairs."""
    mine = [source for source in corpus.sources if is_trained_on(source)]
    named = [source.name for source in mine if source.shape is not None]
    pieces = {piece.source.name: piece for piece in reversed(corpus.pieces)}
    for source in mine:
        if source.shape is None and source.name in pieces:
            documents = list(islice(_documents(pieces[source.name]), SAMPLE))
            if _are_pairs(documents):
                named.append(source.name)
    if named:
        raise ConfigError(
            f"{listed(named)}: raw pairs of questions and answers are not mixed with text unless "
            "asked; let them be rewritten, as in rewrite.templates=neutral, or take them as they "
            "are with rewrite.raw_pairs=allow."
        )


def _are_pairs(documents: Sequence[Document]) -> bool:
    found = [d for d in documents if is_pair(d.fields.get(RECORD)) or read_markup(d.text)]
    return 2 * len(found) > len(documents)


def _documents(piece: SourcePiece) -> Iterator[Document]:
    """Of the first file; lines that are no documents are left to whoever reads all."""
    extent = piece.extents[0]
    file = piece.source.files[extent.file]
    reader = ExtentReader(file, extent=extent, number=0, key=None, max_bytes=BYTES_MAX)
    for passage in reader:
        is_text = file.format is FileFormat.text
        yield from read_documents(passage, key=piece.source.key, limit=BYTES_MAX, is_text=is_text)[
            0
        ]
