# SPDX-License-Identifier: Apache-2.0
"""Records of CSV and TSV files: one column's values, with the lines they begin in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from megacpt.corpus.documents import BadLine, ErrorKind
from megacpt.corpus.not_learned import require_no_spans
from megacpt.errors import DataError

FIELD_MAX = (1 << 31) - 1
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record's text, as bytes that may be broken UTF-8; or what is wrong with the record."""

    line: int
    value: bytes | BadLine


def records(
    stream: BinaryIO, *, path: str, kind: str, key: str | None, limit: int
) -> Iterator[Record]:
    """All records below the header, without a ``key`` as JSON objects; empty lines are skipped, as
    the library does.

    Quotes must be balanced: a stray one would swallow the records after it in silence.
    """
    csv.field_size_limit(min(limit, FIELD_MAX))  # A longer one is refused while it is read.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = _Rows(text, delimiter=DELIMITERS[kind])
    header = next((row for row in rows if row), None)
    if header is None:
        return
    if isinstance(header, BadLine):
        raise DataError(f"{path}:{header.line}: {header.problem}.")
    require_no_spans(header, path=path)
    columns = [_column(header, path=path, key=name) for name in ([key] if key else header)]
    for row in rows:
        if isinstance(row, list) and len(row) not in (0, len(header)):
            row = rows.bad(
                f"has {len(row)} fields, but the first line {len(header)}; put quotes around "
                "fields that hold the delimiter or line breaks"
            )
        if isinstance(row, BadLine):
            yield Record(line=row.line, value=row)
        elif row:
            value = row[columns[0]] if key else _json(header, row=row)
            yield Record(line=rows.line, value=value.encode("utf-8", "surrogateescape"))


def _json(header: list[str], *, row: list[str]) -> str:
    return json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False)


class _Rows:
    """The fields of each record, or what is wrong with it; ``line`` is the one it begins in."""

    def __init__(self, text: io.TextIOWrapper, *, delimiter: str) -> None:
        self._text, self._lines = text, list[str]()
        self._reader = csv.reader(self._read(), delimiter=delimiter, strict=True)
        self.line = 1

    def _read(self) -> Iterator[str]:
        for line in self._text:
            self._lines.append(line)
            yield line

    def __iter__(self) -> Iterator[list[str] | BadLine]:
        return self

    def __next__(self) -> list[str] | BadLine:
        self._lines.clear()
        self.line = self._reader.line_num + 1
        try:
            return next(self._reader)
        except csv.Error as error:
            if "field limit" in str(error):
                return self.bad(
                    f"is too long ({error}); raise --max-document-bytes", kind=ErrorKind.oversized
                )
            return self.bad(
                f"is no record ({error}); close quotes, and double those within a field"
            )

    def bad(self, problem: str, *, kind: ErrorKind = ErrorKind.broken_record) -> BadLine:
        """The record that was read last, as it stands in the file."""
        content = "".join(self._lines).rstrip("\r\n").encode("utf-8", "surrogateescape")
        return BadLine(line=self.line, kind=kind, problem=problem, content=content)


def _column(header: list[str], *, path: str, key: str) -> int:
    if key not in header:
        raise DataError(
            f"{path}: has no column {key!r}; its first line names the columns: "
            f"{', '.join(header)}. Use --key NAME."
        )
    if (times := header.count(key)) > 1:
        raise DataError(f"{path}: has {times} columns named {key!r}; give them names of their own.")
    return header.index(key)
