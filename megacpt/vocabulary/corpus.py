# SPDX-License-Identifier: Apache-2.0
"""The texts of the files that tokenize reads, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from megacpt.corpus.documents import parse
from megacpt.corpus.formats import SourceFile
from megacpt.corpus.inputs import find_files
from megacpt.corpus.not_learned import NOT_LEARNED, has_spans, unread
from megacpt.corpus.pieces import Extent, cut, piece_bytes
from megacpt.corpus.reader import ExtentReader, first_line
from megacpt.errors import DataError

DOCUMENT_BYTES_MAX = 1 << 26
EVERY = 10
"""Each tenth document is measured and not learned from, where no other text is named for it."""


def learned_texts(names: Sequence[str], *, key: str) -> Iterator[str]:
    """All documents but each tenth."""
    return (text for n, text in enumerate(read_texts(names, key=key), start=1) if n % EVERY)


def measured_texts(names: Sequence[str], *, key: str) -> Iterator[str]:
    """Each tenth document."""
    return islice(read_texts(names, key=key), EVERY - 1, None, EVERY)


def read_texts(names: Sequence[str], *, key: str) -> Iterator[str]:
    """All that are not empty; the sentences of one are joined with blanks. DataError where a line
    holds none."""
    with TemporaryDirectory() as spool:
        files = find_files(names, file_format=None, spool=Path(spool))
        for piece in cut(files, size=piece_bytes(sum(file.bytes for file in files))):
            for extent in piece:
                yield from _texts(files[extent.file], extent=extent, key=key)


def _texts(file: SourceFile, *, extent: Extent, key: str) -> Iterator[str]:
    for passage in ExtentReader(
        file, extent=extent, number=0, key=key, max_bytes=DOCUMENT_BYTES_MAX
    ):
        parsed = parse(passage, key=key, limit=DOCUMENT_BYTES_MAX)
        if bad := [*passage.bad, *parsed.bad]:
            line = first_line(file, extent=extent) + bad[0].line - 1
            raise DataError(f"{file.path}:{line}: {bad[0].problem}.")
        if has_spans(passage):
            raise unread(f"{file.path} has lines with {NOT_LEARNED}")
        for document in parsed.texts:
            text = document if isinstance(document, str) else " ".join(document)
            if text:
                yield text
