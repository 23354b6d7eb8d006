# SPDX-License-Identifier: Apache-2.0
"""Documents of a passage of raw text, each with all that its line says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import xxhash

from megacpt.corpus.documents import (
    BadLine,
    ColumnValue,
    ErrorKind,
    Parsed,
    Passage,
    numbers,
    parse_lines,
    parse_values,
)
from megacpt.corpus.not_learned import NOT_LEARNED, CharacterSpan, spans_of, united, unread
from megacpt.curate.rewrite.shapes import RECORD, Shape, plain_text, read_record
from megacpt.errors import DataError

TEXT, ID = "text", "id"
"""Keys of what is written."""
FIELDS = "fields"
"""Column of the others, as JSON."""


class Document:
    """A JSON object with a text under ``key``; ``line`` is its JSON, None where it has changed.

    Without ``fields`` its line is known to be as it would be written, and parsed when asked for.
    """

    __slots__ = ("_fields", "_id", "_num_bytes", "key", "line")

    def __init__(
        self, fields: dict[str, Any] | None = None, *, key: str = TEXT, line: bytes | None = None
    ) -> None:
        self._fields, self.key, self.line = fields, key, line
        self._id: str | None = None
        self._num_bytes: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        if self._fields is None:
            assert self.line is not None
            self._fields = orjson.loads(self.line)
        return self._fields

    @property
    def text(self) -> str:
        text: str = self.fields[self.key]
        return text

    @property
    def id(self) -> str:
        """Its own, or 128 bits of its text in hexadecimal: of equal texts the same."""
        if self._id is None:
            own = self.fields.get(ID)
            self._id = text_id(self.text) if own is None else str(own)
        return self._id

    @property
    def num_bytes(self) -> int:
        """Of its text, in UTF-8."""
        if self._num_bytes is None:
            text = self.text
            plain = text.isascii()
            self._num_bytes = len(text) if plain else len(text.encode("utf-8", "surrogatepass"))
        return self._num_bytes

    @num_bytes.setter
    def num_bytes(self, known: int) -> None:
        self._num_bytes = known

    @property
    def is_as_written(self) -> bool:
        """Its line is what ``json_line`` gives."""
        if self._fields is None:
            return True
        return self.key == TEXT and self.line is not None and self._fields.get(ID) is not None

    def with_text(self, text: str, **others: Any) -> Document:
        """The same document with another text, and other fields beside it; the id stays.

        DataError: it has spans that are not learned, which would be other ones then.
        """
        if self.fields.get(NOT_LEARNED) and text != self.text:
            raise DataError(
                f"document {self.id} has spans that are not to be learned ({NOT_LEARNED}), and "
                "this step changes its text; do it before decontaminate.action=mask, in the same "
                "curation or one before."
            )
        fields = {ID: self.id} | self.fields | {self.key: text} | others
        return Document(fields, key=self.key)

    def without_learning(self, spans: Iterable[CharacterSpan]) -> Document:
        """The same document, of which these are not learned either."""
        self._require_own_spans()
        known = spans_of(self.fields, text=self.text)
        own = {ID: self.id, TEXT: self.text, NOT_LEARNED: united([*known, *spans])}
        return Document({k: v for k, v in self.fields.items() if k != self.key} | own)

    def _require_own_spans(self) -> None:
        if self.key != TEXT and self.fields.get(NOT_LEARNED):
            raise unread(f"document {self.id} has {NOT_LEARNED}, and is read under {self.key!r}")

    def json_line(self) -> bytes:
        """An object with ``id`` and ``text``, without a line break; what else there was stays."""
        if self.line is not None and self.is_as_written:
            return self.line
        if self.key == TEXT and self.line is not None and ID not in self.fields:
            return b'{"id":"%s",%s' % (self.id.encode(), self.line[1:])
        self._require_own_spans()
        others = {k: v for k, v in self.fields.items() if k not in (ID, TEXT, self.key)}
        fields = {ID: self.fields.get(ID) or self.id, TEXT: self.text, **others}
        return as_json(fields)


def as_json(fields: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError:  # A number of more than 64 bits, half of a surrogate pair.
        return json.dumps(fields).encode()


def text_id(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBatch:
    """The documents of a passage, in order."""

    piece: int
    first: int
    """Number in the piece of the first of them."""
    documents: list[Document]
    bad: list[BadLine] = field(default_factory=list)
    passage: Passage

    @property
    def numbers(self) -> range:
        """In the piece, one of each document."""
        return range(self.first, self.first + len(self.documents))


def lines_of(passage: Passage) -> list[Document]:
    """Of a passage that was read before, all of whose documents are as they would be written."""
    assert isinstance(passage.content, bytes)
    return [Document(line=line) for line in passage.content.split(b"\n") if line]


def read_documents(
    passage: Passage, *, key: str, limit: int, shape: Shape | None = None, is_text: bool = False
) -> tuple[list[Document], Parsed]:
    """The documents, and with ``Parsed.bad`` the lines that are none. What has the ``shape`` of a
    record is one, with all it says as its text, until something better is made of it.

    ``is_text``: values are texts, not JSON objects."""
    content = passage.content
    lines = content.split(b"\n") if isinstance(content, bytes) else content
    told = numbers(passage, count=len(lines))
    if is_text:
        parsed = parse_values(lines, lines=told, limit=limit)
        return [Document({TEXT: _joined(text)}) for text in parsed.texts], parsed
    try:
        if shape is None:
            found = list(_quickly(lines, key=key, limit=limit))
            return found if isinstance(content, bytes) else _unfolded(found), Parsed(texts=[])
    except (ValueError, LookupError, TypeError):
        pass
    return _one_by_one(zip(told, lines, strict=True), key=key, limit=limit, shape=shape)


def _quickly(lines: Sequence[ColumnValue], *, key: str, limit: int) -> Iterator[Document]:
    """All lines are documents, or one of these errors is raised."""
    loads = orjson.loads
    for line in lines:
        if not line:
            continue
        assert isinstance(line, bytes)
        fields = loads(line)
        if len(line) > limit or type(fields[key]) is not str:
            raise ValueError
        is_bare = line[:1] == b"{" and line[-1:] == b"}"
        yield Document(fields, key=key, line=line if is_bare else None)


def _unfolded(documents: list[Document]) -> list[Document]:
    """With the fields that parts in Parquet hold as JSON in a column of their own."""
    for document in documents:
        if document.fields.keys() == {ID, TEXT, FIELDS}:
            others = _object(str(document.fields[FIELDS]).encode())
            if others is not None:
                del document.fields[FIELDS]
                document.fields.update(others)
                document.line = None
    return documents


def _one_by_one(
    lines: Iterable[tuple[int, ColumnValue]], *, key: str, limit: int, shape: Shape | None
) -> tuple[list[Document], Parsed]:
    found, bad = list[Document](), list[BadLine]()
    for number, line in lines:
        assert isinstance(line, bytes)
        document = _of_record(line, shape=shape) if shape and len(line) <= limit else None
        if document is not None:
            found.append(document)
            continue
        parsed = parse_lines(line, first_line=number, key=key, limit=limit)
        bad += [_advised(one, fields=_object(line), shape=shape) for one in parsed.bad]
        for text in parsed.texts:
            fields = json.loads(line)
            fields[key] = _joined(text)
            found.append(Document(fields, key=key))
    return found, Parsed(texts=[], bad=bad)


def _of_record(line: bytes, *, shape: Shape) -> Document | None:
    """None where it has another shape, or a text that is not Unicode."""
    fields = _object(line)
    record = read_record(fields, shape=shape) if fields is not None else None
    if fields is None or record is None:
        return None
    others = {name: value for name, value in fields.items() if name not in record.used}
    document = Document(others | {TEXT: plain_text(record), RECORD: record.to_json()})
    try:
        document.text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return document


def _object(line: bytes) -> dict[str, Any] | None:
    for loads in (orjson.loads, json.loads):
        try:
            fields = loads(line)
        except (ValueError, RecursionError):
            continue
        return fields if isinstance(fields, dict) else None
    return None


def _advised(bad: BadLine, *, fields: dict[str, Any] | None, shape: Shape | None) -> BadLine:
    """With what to do about a record that was taken for a text, or has another shape."""
    if bad.kind is not ErrorKind.no_key or fields is None:
        return bad
    found = read_record(fields, shape=Shape.auto)
    if shape is not None:
        told = f", nor is it a record of shape {shape.value}"
        found = found if found is None or found.shape is not shape else None
    else:
        told = ""
    if found is not None:
        told += (
            f". It is a {found.shape.value}: set the source's shape={found.shape.value}, or auto"
        )
    return replace(bad, problem=bad.problem + told)


def _joined(text: str | tuple[str, ...]) -> str:
    return text if isinstance(text, str) else "\n".join(text)
