# SPDX-License-Identifier: Apache-2.0
"""Files of curated documents: lines of JSON, also compressed with Zstandard, or Parquet."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
import xxhash

from megacpt.corpus.containers import arrow_for
from megacpt.corpus.not_learned import NOT_LEARNED, unread
from megacpt.curate.documents import FIELDS, ID, TEXT, Document, as_json
from megacpt.files import aside_of


class PartForm(enum.Enum):
    jsonl = "jsonl"
    jsonl_zst = "jsonl.zst"
    parquet = "parquet"
    """Columns ``id``, ``text`` and ``fields``, a JSON object with all others."""


class LinesBeside:
    """A file of JSON lines beside a part; there is none as long as nothing is added."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, aside_of(path)
        self._file: BinaryIO | None = None

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._file = self._file or self._aside.open("wb")
            self._file.writelines(orjson.dumps(row) + b"\n" for row in rows)

    def finish(self) -> str | None:
        """The name it now has."""
        if self._file is None:
            return None
        self._file.close()
        return self._aside.replace(self._path).name


class PartWriter(Protocol):
    """A file that is written aside; ``finish`` gives it its name."""

    def add(self, documents: Sequence[Document]) -> None: ...

    def finish(self) -> Path:
        """STEM-CHECKSUM.FORM: what a later step makes of other content is told by its name."""


def open_part(stem: Path, *, form: PartForm) -> PartWriter:
    match form:
        case PartForm.jsonl:
            return _Lines(stem, form=form)
        case PartForm.jsonl_zst:
            return _Compressed(stem, form=form)
        case PartForm.parquet:
            return _Rows(stem, form=form)


class _File:
    """Written aside and renamed."""

    def __init__(self, stem: Path, *, form: PartForm) -> None:
        self._stem, self._form = stem, form
        # A task that was taken for lost may still be writing the same part.
        self._aside = aside_of(stem)
        self._file: BinaryIO = self._aside.open("wb")

    def _publish(self) -> Path:
        self._file.close()
        name = f"{self._stem}-{checksum(self._aside)}.{self._form.value}"
        return self._aside.replace(name)


class _Lines(_File):
    def add(self, documents: Sequence[Document]) -> None:
        if documents:
            self._file.write(b"\n".join([d.json_line() for d in documents]) + b"\n")

    def finish(self) -> Path:
        return self._publish()


class _Compressed(_Lines):
    def __init__(self, stem: Path, *, form: PartForm) -> None:
        super().__init__(stem, form=form)
        arrow = arrow_for("Zstandard output")
        plain = self._file
        self._file = arrow.CompressedOutputStream(arrow.PythonFile(plain, mode="w"), "zstd")

    def finish(self) -> Path:
        self._file.close()
        self._file = self._aside.open("ab")
        return self._publish()


class _Rows(_File):
    def __init__(self, stem: Path, *, form: PartForm) -> None:
        super().__init__(stem, form=form)
        arrow_for("Parquet output")
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        names = ((ID, arrow.string()), (TEXT, arrow.large_string()), (FIELDS, arrow.string()))
        self._arrow: Any = arrow
        self._schema = arrow.schema(names)
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")

    def add(self, documents: Sequence[Document]) -> None:
        rows = [_row(document) for document in documents]
        if rows:
            self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def finish(self) -> Path:
        self._writer.close()
        if self._file.closed:
            self._file = self._aside.open("ab")
        return self._publish()


def _row(document: Document) -> dict[str, Any]:
    others = {k: v for k, v in document.fields.items() if k not in (ID, TEXT, document.key)}
    if others.get(NOT_LEARNED):
        raise unread(f"document {document.id} would go into Parquet")
    return {ID: document.id, TEXT: document.text, FIELDS: as_json(others).decode()}


def checksum(path: Path) -> str:
    """XXH3, 128 bits, of the file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
