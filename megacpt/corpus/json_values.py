# SPDX-License-Identifier: Apache-2.0
"""The values of one JSON array as lines, one each, cut while it is read.

Only strings and brackets are looked at; what a value means, or that it is broken, is for whoever
reads the lines. A line break in JSON is a blank, for within strings it is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from megacpt.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STRUCTURE = re.compile(rb'["{}\[\],]')
STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
"""The rest of a string, up to its end or to half an escape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value, or of one over the limit its beginning."""

    content: bytes
    num_bytes: int


@dataclass(slots=True, kw_only=True)
class _Kept:
    """The value that is being read, as far as it fits into memory."""

    limit: int
    parts: list[bytes] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, content: bytes) -> None:
        room = max(self.limit + 1 - self.num_bytes, 0)
        self.parts.append(content[:room])
        self.num_bytes += len(content)

    def take(self) -> Value | None:
        """The value; None if there are only blanks."""
        whole = b"".join(self.parts)
        value = Value(content=whole.strip().replace(b"\n", b" "), num_bytes=self.num_bytes)
        self.parts, self.num_bytes = [], 0
        return value if value.content else None


def values(chunks: Iterator[bytes], *, path: str, limit: int) -> Iterator[Value]:
    """The values of the array, in order; what is no array is one value, whole."""
    first = next(chunks, b"").removeprefix(BYTE_ORDER_MARK)
    while not first.strip() and (more := next(chunks, b"")):
        first = more
    is_array = first.lstrip()[:1] == b"["
    splitter = _Splitter(limit=limit, base=int(is_array))
    yield from splitter.feed(first.lstrip()[is_array:])
    for chunk in chunks:
        yield from splitter.feed(chunk)
    last = splitter.kept.take()
    if is_array and not splitter.ended:
        raise DataError(f"{path} ends within its JSON array; copy or write it again.")
    if is_array and last:
        raise DataError(
            f"{path} goes on after its JSON array ({last.content[:40]!r}); a .json file holds one "
            "array, or an object a line."
        )
    if last:
        yield last


class _Splitter:
    """Where the last chunk ended: how deep, and whether within a string or an escape."""

    def __init__(self, *, limit: int, base: int) -> None:
        self.kept = _Kept(limit=limit)
        self.ended = False
        self._base = self._depth = base
        self._in_string = self._escaped = False

    def feed(self, chunk: bytes) -> Iterator[Value]:
        start = at = 0
        if self._escaped:
            at, self._escaped = 1, False
        while at < len(chunk):
            if self._in_string:
                at = self._after_string(chunk, at=at)
                continue
            found = STRUCTURE.search(chunk, at)
            if found is None or self.ended:
                break
            at, mark = found.end(), found.group()
            if mark == b'"':
                self._in_string = True
            elif mark in b"{[":
                self._depth += 1
            elif mark in b"}]":
                self._depth -= 1
            if self._base and self._ends_value(mark):
                self.kept.add(chunk[start : at - 1])
                start = at
                if value := self.kept.take():
                    yield value
        self.kept.add(chunk[start:])

    def _after_string(self, chunk: bytes, *, at: int) -> int:
        found = STRING.match(chunk, at)
        end = found.end() if found else at
        self._escaped = chunk[end : end + 1] == b"\\"
        self._in_string = self._escaped or end == len(chunk)
        return end + 1

    def _ends_value(self, mark: bytes) -> bool:
        self.ended = self._depth < self._base
        return self.ended or (mark == b"," and self._depth == self._base)
