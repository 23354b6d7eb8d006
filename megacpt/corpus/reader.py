# SPDX-License-Identifier: Apache-2.0
"""Read one extent of a file as passages, with bounded memory, and its checksum by the way."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from megacpt.corpus import containers, json_values, parquet, table
from megacpt.corpus.checksum import Leaves
from megacpt.corpus.documents import BadLine, ColumnValue, Passage, too_long
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.json_values import BYTE_ORDER_MARK
from megacpt.corpus.pieces import Extent
from megacpt.errors import DataError

PASSAGE_BYTES = 1 << 21
"""What a worker gets at once, unless a line is longer."""
HEAD_BYTES = 1 << 16
"""Kept of a line that is too long for memory."""
RECORDS_MAX = 1 << 14
"""Of a table, in a passage."""


class ExtentReader:
    """Iterate over the passages; then ``leaves`` and ``num_lines`` describe what was read."""

    def __init__(
        self, file: SourceFile, *, extent: Extent, number: int, key: str | None, max_bytes: int
    ) -> None:
        """``key`` None: of tables all columns, each row as a JSON object."""
        self._file, self._extent, self._number = file, extent, number
        self._key = key
        self._max_bytes = max_bytes
        self._leaves = Leaves()
        self._unreported = 0
        self.num_lines = 0

    @property
    def leaves(self) -> list[str]:
        return self._leaves.hexdigests()

    def __iter__(self) -> Iterator[Passage]:
        with containers.told(self._file.path, ending=self._file.ending):
            _require_unchanged(self._file)
            yield from self._passages()

    def _passages(self) -> Iterator[Passage]:
        if self._file.format is FileFormat.parquet:
            yield from self._rows()
            return
        with ExitStack() as stack:
            raw = stack.enter_context(Path(self._file.path).open("rb", buffering=0))
            if self._extent.start == 0:
                self._require_text(raw)
            if self._file.format is FileFormat.jsonl and not self._file.ending:
                yield from self._lines(self._owned(raw))
                return
            stream = self._open(raw, stack=stack)
            match self._file.format:
                case FileFormat.text:
                    yield self._whole(stream)
                case FileFormat.json:
                    yield from self._values(_chunks(stream))
                case FileFormat.csv | FileFormat.tsv:
                    yield from self._records(stream)
                case _:
                    yield from self._lines(_chunks(stream))

    def _require_text(self, raw: io.FileIO) -> None:
        head = os.pread(raw.fileno(), containers.HEAD_BYTES, 0)
        containers.require_kind(self._file.path, head=head, ending=self._file.ending)

    def _open(self, raw: io.FileIO, *, stack: ExitStack) -> BinaryIO:
        """The file's content, decompressed."""
        source: Any = io.BufferedReader(_Watched(raw, watcher=self._seen), PASSAGE_BYTES)
        return containers.unpacked(source, ending=self._file.ending, stack=stack)

    def _seen(self, content: memoryview) -> None:
        """Called with all that is read from the disk."""
        self._leaves.update(content)
        self._unreported += len(content)

    def _taken(self) -> int:
        count, self._unreported = self._unreported, 0
        return count

    def _owned(self, raw: BinaryIO) -> Iterator[bytes]:
        """The lines that begin in the extent: not its beginning, if that is another line's end, but
        all of its last line."""
        start, stop = self._extent.start, self._extent.stop
        raw.seek(max(start - 1, 0))
        inside = start > 0 and raw.read(1) != b"\n"
        last = b"\n"
        while start < stop:
            chunk = raw.read(
                _bytes_of_lines(raw, start=start, limit=min(PASSAGE_BYTES, stop - start))
            )
            if not chunk:
                raise _changed(self._file)
            self._seen(memoryview(chunk))
            start, last = start + len(chunk), chunk[-1:]
            if inside:
                end = chunk.find(b"\n")
                inside, chunk = end < 0, chunk[end + 1 :] if end >= 0 else b""
            yield chunk
        while not inside and last != b"\n" and (chunk := raw.read(HEAD_BYTES)):
            end = chunk.find(b"\n")
            yield chunk[: end + 1] if end >= 0 else chunk
            last = b"\n" if end >= 0 else last

    def _lines(self, chunks: Iterator[bytes]) -> Iterator[Passage]:
        """Passages that end where a line does; of a line too long for memory, its head."""
        kept: list[bytes] = []
        head, dropped = b"", 0
        for chunk in chunks:
            if dropped:
                end = chunk.find(b"\n")
                if end < 0:
                    dropped += len(chunk)
                    continue
                yield self._dropped(head, num_bytes=dropped + end)
                chunk, dropped = chunk[end + 1 :], 0
            end = chunk.rfind(b"\n") + 1
            if end:
                yield self._passage(b"".join([*kept, chunk[:end]]))
                kept = []
            if end < len(chunk):
                kept.append(chunk[end:])
            if sum(map(len, kept)) > self._max_bytes + PASSAGE_BYTES:
                head, dropped = b"".join(kept)[:HEAD_BYTES], sum(map(len, kept))
                kept = []
        if dropped:
            yield self._dropped(head, num_bytes=dropped)
        yield self._passage(b"".join(kept))

    def _passage(self, content: bytes) -> Passage:
        # Python's count takes half as long as parsing.
        num_breaks = int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("\n")))
        num_lines = num_breaks + (content[-1:] not in (b"", b"\n"))
        return self._made(content, num_lines=num_lines)

    def _dropped(self, head: bytes, *, num_bytes: int) -> Passage:
        line = self.num_lines + 1
        bad = too_long(line, num_bytes=num_bytes, limit=self._max_bytes, head=head)
        return self._made(b"", num_lines=1, bad=(bad,))

    def _whole(self, stream: BinaryIO) -> Passage:
        """All of the file as one value; it is cut just after the limit, and the rest only read."""
        value = stream.read(self._max_bytes + 1 + len(BYTE_ORDER_MARK))
        for _ in _chunks(stream):
            pass
        text = value.removeprefix(BYTE_ORDER_MARK)[: self._max_bytes + 1]
        return self._made([text], num_lines=1)

    def _values(self, chunks: Iterator[bytes]) -> Iterator[Passage]:
        """A line for each value of a JSON array; its number is that of the value."""
        kept: list[bytes] = []
        for value in json_values.values(chunks, path=self._file.path, limit=self._max_bytes):
            if value.num_bytes > self._max_bytes:
                yield self._made(b"\n".join(kept), num_lines=len(kept))
                kept = []
                yield self._dropped(value.content[:HEAD_BYTES], num_bytes=value.num_bytes)
                continue
            kept.append(value.content)
            if sum(map(len, kept)) > PASSAGE_BYTES:
                yield self._made(b"\n".join(kept), num_lines=len(kept))
                kept = []
        yield self._made(b"\n".join(kept), num_lines=len(kept))

    def _records(self, stream: BinaryIO) -> Iterator[Passage]:
        """Values of a column, with the numbers of the lines that their records begin in."""
        values, lines, bad, size = list[ColumnValue](), list[int](), list[BadLine](), 0
        kind, limit = self._file.format.value, self._max_bytes
        for record in table.records(
            stream, path=self._file.path, kind=kind, key=self._key, limit=limit
        ):
            if isinstance(record.value, BadLine):
                bad.append(record.value)
                size += len(record.value.content)
            else:
                values.append(record.value)
                lines.append(record.line)
                size += len(record.value)
            if size > PASSAGE_BYTES or len(lines) >= RECORDS_MAX:
                yield self._table(values, lines=lines, bad=bad)
                values, lines, bad, size = [], [], [], 0
        yield self._table(values, lines=lines, bad=bad)

    def _table(self, values: list[ColumnValue], *, lines: list[int], bad: list[BadLine]) -> Passage:
        last = max([self.num_lines, *lines[-1:], *(line.line for line in bad[-1:])])
        made = self._made(values, num_lines=last - self.num_lines, bad=tuple(bad))
        return replace(made, lines=lines)

    def _rows(self) -> Iterator[Passage]:
        path, extent = self._file.path, self._extent
        if extent.start == 0:
            with Path(path).open("rb", buffering=0) as raw:
                while chunk := raw.read(PASSAGE_BYTES):
                    self._leaves.update(chunk)
        total = parquet.num_rows(path, start=extent.start, stop=extent.stop)
        reported = 0
        for values in parquet.read_values(
            path, start=extent.start, stop=extent.stop, key=self._key
        ):
            share = extent.bytes * (self.num_lines + len(values)) // total
            self._unreported, reported = share - reported, share
            yield self._made(values, num_lines=len(values))

    def _made(
        self, content: bytes | list[ColumnValue], *, num_lines: int, bad: tuple[BadLine, ...] = ()
    ) -> Passage:
        first_line = self.num_lines + 1
        self.num_lines += num_lines
        return Passage(
            extent=self._number,
            first_line=first_line,
            num_lines=num_lines,
            content=content,
            bytes_read=self._taken(),
            bad=bad,
        )


def _bytes_of_lines(raw: BinaryIO, *, start: int, limit: int) -> int:
    """How many of the next bytes to read so that they end where a line does; ``limit`` where no
    line ends near it. Then a passage need not be copied to cut it."""
    tail = min(HEAD_BYTES, limit)
    end = os.pread(raw.fileno(), tail, start + limit - tail).rfind(b"\n") + 1
    return limit - tail + end if end else limit


class _Watched(io.RawIOBase):
    """A raw file that shows all that is read from it."""

    def __init__(self, file: io.FileIO, *, watcher: Callable[[memoryview], None]) -> None:
        self._file, self._watcher = file, watcher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        self._watcher(memoryview(buffer)[:count])
        return count


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(PASSAGE_BYTES), b"")


def _require_unchanged(file: SourceFile) -> None:
    about = Path(file.path).stat()
    if about.st_size != file.bytes or file.modified_ns not in (0, about.st_mtime_ns):
        raise _changed(file)


def _changed(file: SourceFile) -> DataError:
    return DataError(
        f"{file.path} changed after the work on it began; leave the inputs as they are and start "
        "again."
    )


def first_line(file: SourceFile, *, extent: Extent) -> int:
    """Number in the whole file of the first line that belongs to the extent, from 1."""
    if file.format is FileFormat.parquet:
        return 1 + parquet.num_rows(file.path, start=0, stop=extent.start)
    if extent.start == 0:
        return 1
    lines, left = 2, extent.start - 1
    with Path(file.path).open("rb", buffering=0) as raw:
        while left > 0 and (chunk := raw.read(min(PASSAGE_BYTES, left))):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return lines
