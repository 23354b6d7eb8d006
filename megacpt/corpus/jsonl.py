# SPDX-License-Identifier: Apache-2.0
"""The texts of JSON lines.

orjson reads the lines, all in one go where nothing is wrong. A passage with a line it refuses is
read again by the standard library, which decides: it also takes NaN, big numbers and a byte order
mark, and says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from megacpt.corpus.documents import BadLine, ErrorKind, Parsed, too_long


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
    """By views: cutting copies of the lines takes half as long as parsing them."""
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
        return ErrorKind.broken_json, f"is not JSON ({error}); mend or remove the line"
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
        return ErrorKind.invalid_unicode, f"text is not Unicode ({error}); mend or remove it"
    return text
