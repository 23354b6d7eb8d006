# SPDX-License-Identifier: Apache-2.0
"""Texts of a passage of input, and the lines of it that hold none, by the kind of what is wrong.

orjson reads lines of JSON, all in one go where nothing is wrong. A passage with a line it refuses
is read again by the standard library, which decides: it also takes NaN, big numbers and a byte
order mark, and says what is wrong.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from megacpt.errors import DataError

QUARANTINE = "quarantine.jsonl"
"""PREFIX.``QUARANTINE`` holds the lines that were set aside."""


class OnError(enum.Enum):
    """What happens where a line is not a document."""

    stop = "stop"
    skip = "skip"
    """It is counted by kind in the manifest."""
    quarantine = "quarantine"
    """It is counted and kept, with its place and what is wrong, in PREFIX.quarantine.jsonl."""


class ErrorKind(enum.Enum):
    broken_json = "broken_json"
    no_object = "no_object"
    no_key = "no_key"
    no_text = "no_text"
    invalid_utf8 = "invalid_utf8"
    invalid_unicode = "invalid_unicode"
    oversized = "oversized"
    not_encoded = "not_encoded"
    """The tokenizer's library gives up on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line (of Parquet a row) that is not a document."""

    line: int
    """Number in the extent that was read, from 1."""
    kind: ErrorKind
    problem: str
    """A sentence without its beginning, which is the place."""
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    texts: list[str]
    """Empty ones too."""
    bad: list[BadLine] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Some consecutive lines or rows of one extent of a piece."""

    extent: int
    first_line: int
    num_lines: int
    content: bytes | list[object]
    """Lines of JSON, or values that ought to be text."""
    bytes_read: int
    """Bytes on the disk that were read since the passage before."""
    bad: tuple[BadLine, ...] = ()
    """Lines too long to be kept in memory."""


def too_long(line: int, *, num_bytes: int, limit: int, head: bytes) -> BadLine:
    return BadLine(
        line=line,
        kind=ErrorKind.oversized,
        problem=f"has {num_bytes} bytes, but documents may have {limit}; cut it, or raise "
        "--max-document-bytes",
        content=head,
    )


def parse_lines(content: bytes, *, first_line: int, key: str, limit: int) -> Parsed:
    """The text under ``key`` of every line that is not blank."""
    try:
        texts = list(_parse_all(content, key=key, limit=limit))
        if all(type(text) is str for text in texts):
            return Parsed(texts=texts)
    except (ValueError, LookupError, TypeError):
        pass
    return _parse_each(content.split(b"\n"), first_line=first_line, key=key, limit=limit)


def _parse_all(content: bytes, *, key: str, limit: int) -> Iterator[Any]:
    """Parse views of the lines: cutting copies of the lines takes half as long as parsing them."""
    view, find, loads = memoryview(content), content.find, orjson.loads
    start, size = 0, len(content)
    while start < size:
        stop = find(b"\n", start)
        stop = size if stop < 0 else stop
        if stop - start > limit:
            raise ValueError("a line is too long")
        if stop > start:
            yield loads(view[start:stop])[key]
        start = stop + 1


def _parse_each(lines: list[bytes], *, first_line: int, key: str, limit: int) -> Parsed:
    parsed = Parsed(texts=[])
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        if len(line) > limit:
            parsed.bad.append(too_long(number, num_bytes=len(line), limit=limit, head=line))
            continue
        found = _text_of(line, key=key)
        if isinstance(found, str):
            parsed.texts.append(found)
        else:
            kind, problem = found
            parsed.bad.append(BadLine(line=number, kind=kind, problem=problem, content=line))
    return parsed


def _text_of(line: bytes, *, key: str) -> str | tuple[ErrorKind, str]:
    """The text, or what is wrong."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        return ErrorKind.invalid_utf8, f"is not UTF-8 ({error}); convert the file"
    except (ValueError, RecursionError) as error:
        return ErrorKind.broken_json, f"is not JSON ({error}); fix or remove the line"
    if not isinstance(value, dict):
        kind = type(value).__name__
        return ErrorKind.no_object, f"must hold a JSON object, got {kind}"
    text = value.get(key)
    if isinstance(text, str):
        return _checked(text)
    known = ", ".join(sorted(value)) or "none"
    if key not in value:
        return ErrorKind.no_key, f"has no key {key!r}; its keys are: {known}. Use --key NAME"
    return ErrorKind.no_text, f"holds no text under {key!r}; its keys are: {known}. Use --key NAME"


def _checked(text: str) -> str | tuple[ErrorKind, str]:
    """JSON can escape half a surrogate pair, which no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return ErrorKind.invalid_unicode, f"text is not Unicode ({error}); fix or remove it"
    return text


def parse_values(values: Sequence[object], *, first_line: int, limit: int) -> Parsed:
    """Values of a Parquet column, or whole files, as texts."""
    parsed = Parsed(texts=[])
    for line, value in enumerate(values, start=first_line):
        if isinstance(value, bytes):
            _add_bytes(parsed, value=value, line=line, limit=limit)
        else:
            problem = f"must hold text, got {'nothing' if value is None else type(value).__name__}"
            content = str(value).encode("utf-8", "replace")
            bad = BadLine(line=line, kind=ErrorKind.no_text, problem=problem, content=content)
            parsed.bad.append(bad)
    return parsed


def _add_bytes(parsed: Parsed, *, value: bytes, line: int, limit: int) -> None:
    if len(value) > limit:
        parsed.bad.append(too_long(line, num_bytes=len(value), limit=limit, head=value))
        return
    try:
        parsed.texts.append(value.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 ({error}); convert the file"
        kind = ErrorKind.invalid_utf8
        parsed.bad.append(BadLine(line=line, kind=kind, problem=problem, content=value))


def refusal(bad: BadLine, *, path: str, line: int) -> DataError:
    """The error of the policy ``stop``; ``line`` counts from the beginning of the file."""
    return DataError(
        f"{path}:{line}: {bad.problem}. Or leave such lines out with --on-error skip, or "
        "quarantine to keep them aside; finished pieces are used again."
    )
