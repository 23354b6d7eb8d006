# SPDX-License-Identifier: Apache-2.0
"""Texts of a passage of input, and the lines of it that hold none, by the kind of what is wrong.

orjson reads lines of JSON, all in one go where nothing is wrong. A passage with a line it refuses
is read again by the standard library, which decides: it also takes NaN, big numbers and a byte
order mark, and says what is wrong.
"""

from __future__ import annotations

import base64
import enum
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson

from megacpt.errors import DataError
from megacpt.text import listed

KEY_REMEDY = "Use --key NAME"
QUARANTINE = "quarantine.jsonl"
"""PREFIX.``QUARANTINE`` holds the lines that were set aside."""
KEPT_BYTES = 1 << 20
"""Of such a line."""


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
    broken_record = "broken_record"
    invalid_utf8 = "invalid_utf8"
    invalid_unicode = "invalid_unicode"
    oversized = "oversized"
    not_encoded = "not_encoded"
    """The tokenizer's library gives up on it."""
    no_conversation = "no_conversation"
    """Nor can what there is be written with the chat template."""
    too_many_tokens = "too_many_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line (of Parquet a row) that is not a document."""

    line: int
    """Number in the extent that was read, from 1."""
    kind: ErrorKind
    problem: str
    """A sentence without its beginning, which is the place."""
    content: bytes


def set_aside(bad: BadLine) -> dict[str, Any]:
    """What is kept of a line."""
    content = bad.content[:KEPT_BYTES]
    found = {"line": bad.line, "kind": bad.kind.value, "problem": bad.problem}
    if len(bad.content) > KEPT_BYTES:
        found["cut_at_bytes"] = KEPT_BYTES
    try:
        return found | {"content": content.decode("utf-8")}
    except UnicodeDecodeError:
        return found | {"content_base64": base64.b64encode(content).decode()}


ColumnValue = bytes | list[bytes | None] | None
"""Of a row: a text that may be broken UTF-8, its sentences, or nothing."""
Document = str | tuple[str, ...]
"""A text; or its sentences, each encoded on its own, as Megatron-LM does with a list of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    texts: list[Document]
    """Empty ones too."""
    bad: list[BadLine] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Some consecutive lines or rows of one extent of a piece."""

    extent: int
    first_line: int
    num_lines: int
    content: bytes | list[ColumnValue]
    """Lines of JSON, or values that ought to be text."""
    bytes_read: int
    """Bytes on the disk that were read since the passage before."""
    bad: tuple[BadLine, ...] = ()
    """Lines too long to be kept in memory, records that are none."""
    lines: Sequence[int] | None = None
    """Number of each value's line, where not each line holds a value."""


def parse(passage: Passage, *, key: str, limit: int) -> Parsed:
    """The texts of a passage; its own ``bad`` lines are not repeated."""
    content, line = passage.content, passage.first_line
    if isinstance(content, bytes):
        return parse_lines(content, first_line=line, key=key, limit=limit)
    return parse_values(content, lines=numbers(passage, count=len(content)), limit=limit)


def numbers(passage: Passage, *, count: int) -> Sequence[int]:
    """Of the lines of its values."""
    return passage.lines or range(passage.first_line, passage.first_line + count)


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
        if all(type(text) is str or _are_sentences(text) for text in texts):
            return Parsed(texts=[tuple(t) if isinstance(t, list) else t for t in texts])
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


def _are_sentences(value: object) -> bool:
    return type(value) is list and all(type(text) is str for text in value)


def _parse_each(lines: list[bytes], *, first_line: int, key: str, limit: int) -> Parsed:
    parsed = Parsed(texts=[])
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        if len(line) > limit:
            parsed.bad.append(too_long(number, num_bytes=len(line), limit=limit, head=line))
            continue
        found = _text_of(line, key=key)
        if isinstance(found, LineProblem):
            kind, problem = found
            parsed.bad.append(BadLine(line=number, kind=kind, problem=problem, content=line))
        else:
            parsed.texts.append(found)
    return parsed


class LineProblem(NamedTuple):
    kind: ErrorKind
    problem: str


def read_json_object(line: bytes, *, loads: Callable[[bytes], Any]) -> dict[str, Any] | LineProblem:
    """The JSON object of a line, or what is wrong."""
    try:
        value = loads(line)
    except UnicodeDecodeError as error:
        return LineProblem(ErrorKind.invalid_utf8, f"is not UTF-8 ({error}); convert the file")
    except (ValueError, RecursionError) as error:
        return LineProblem(ErrorKind.broken_json, f"is not JSON ({error}); fix or remove the line")
    if not isinstance(value, dict):
        problem = f"must hold a JSON object, got {_json_kind(value)}"
        return LineProblem(ErrorKind.no_object, problem)
    return value


def _text_of(line: bytes, *, key: str) -> Document | LineProblem:
    """The text, or what is wrong."""
    # Whole numbers as well: Python refuses to make those of thousands of digits.
    value = read_json_object(line, loads=partial(json.loads, parse_int=float))
    if isinstance(value, LineProblem):
        return value
    if key not in value:
        known = ", ".join(sorted(value)) or "none"
        problem = f"has no key {key!r}; its keys are: {known}. {KEY_REMEDY}"
        return LineProblem(ErrorKind.no_key, problem)
    return _checked(value[key], key=key)


def _checked(value: Any, *, key: str) -> Document | LineProblem:
    """A text or a list of texts. JSON can escape half a surrogate pair, which no UTF-8 text can
    hold."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            within = "a list with " * isinstance(value, list)
            problem = f"holds no text under {key!r} but {within}{_json_kind(text)}"
            return LineProblem(ErrorKind.no_text, problem)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"text is not Unicode ({error}); fix or remove it"
            return LineProblem(ErrorKind.invalid_unicode, problem)
    return tuple(texts) if isinstance(value, list) else texts[0]


def _json_kind(value: object) -> str:
    names = {bool: "true or false", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")


def parse_values(values: Sequence[ColumnValue], *, lines: Sequence[int], limit: int) -> Parsed:
    """Values of a column, or whole files, as texts."""
    parsed = Parsed(texts=[])
    for line, value in zip(lines, values, strict=True):
        found = _decoded(value, line=line, limit=limit)
        if isinstance(found, BadLine):
            parsed.bad.append(found)
        else:
            parsed.texts.append(found)
    return parsed


def _decoded(value: ColumnValue, *, line: int, limit: int) -> Document | BadLine:
    given = value if isinstance(value, list) else [value]
    parts = [part for part in given if part is not None]
    if len(parts) < len(given):
        problem, kind = "must hold text, got nothing", ErrorKind.no_text
        return BadLine(line=line, kind=kind, problem=problem, content=b"\n".join(parts))
    if (num_bytes := sum(map(len, parts))) > limit:
        return too_long(line, num_bytes=num_bytes, limit=limit, head=b"\n".join(parts))
    try:
        texts = [part.decode("utf-8") for part in parts]
    except UnicodeDecodeError as error:
        problem, kind = f"is not UTF-8 ({error}); convert the file", ErrorKind.invalid_utf8
        return BadLine(line=line, kind=kind, problem=problem, content=b"\n".join(parts))
    return tuple(texts) if isinstance(value, list) else texts[0]


def refusal(
    bad: Sequence[BadLine],
    *,
    path: str,
    line: int,
    num_lines: int,
    key: str = KEY_REMEDY,
    skip: str = "--on-error skip",
) -> DataError:
    """The error of the policy ``stop``: the first bad line, and how many more there are among the
    ``num_lines`` that were read with it. ``line`` is its number in the file; ``key`` and ``skip``
    are the remedies as whoever reads the lines calls them."""
    sample = ""
    if num_lines > 1:
        kinds = listed(f"{n:,} {kind}" for kind, n in Counter(b.kind.value for b in bad).items())
        others = f"{len(bad):,} are bad: {kinds}" if len(bad) > 1 else "no other is bad"
        sample = f" Of {num_lines:,} lines read together {others}."
    return DataError(
        f"{path}:{line}: {bad[0].problem.replace(KEY_REMEDY, key)}.{sample} Leave such lines out "
        f"with {skip}, or "
        "quarantine to keep them aside; finished pieces are used again."
    )
