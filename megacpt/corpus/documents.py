# SPDX-License-Identifier: Apache-2.0
"""Texts of a passage of input, and the lines of it that hold none, by the kind of what is wrong."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from megacpt.errors import DataError

QUARANTINE = "quarantine.jsonl"
"""PREFIX.``QUARANTINE`` holds the lines that were set aside."""


class OnError(enum.Enum):
    """What happens where a line is not a document."""

    stop = "stop"
    skip = "skip"
    """It is counted by kind in the manifest."""
    quarantine = "quarantine"
    """And kept, with its place and what is wrong, in PREFIX.quarantine.jsonl."""


class ErrorKind(enum.Enum):
    broken_json = "broken_json"
    no_object = "no_object"
    no_key = "no_key"
    no_text = "no_text"
    invalid_utf8 = "invalid_utf8"
    invalid_unicode = "invalid_unicode"
    oversized = "oversized"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line (of Parquet a row) that is not a document."""

    line: int
    """From 1, counted within the extent that was read."""
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
