# SPDX-License-Identifier: Apache-2.0
"""Read one extent of a file as passages, with bounded memory, and its checksum by the way."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megacpt.corpus import parquet
from megacpt.corpus.checksum import Leaves
from megacpt.corpus.documents import BadLine, Passage, too_long
from megacpt.corpus.inputs import FileFormat, SourceFile
from megacpt.corpus.pieces import Extent
from megacpt.errors import DataError

PASSAGE_BYTES = 1 << 21
"""What a worker gets at once, unless a line is longer."""
HEAD_BYTES = 1 << 16
"""Kept of a line that is too long for memory."""


class ExtentReader:
    """Iterate over the passages; then ``leaves`` and ``num_lines`` describe what was read."""

    def __init__(
        self, file: SourceFile, *, extent: Extent, number: int, key: str, max_bytes: int
    ) -> None:
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
        path = self._file.path
        try:
            _require_unchanged(self._file)
            yield from self._passages()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path} is not a complete gzip file ({error}); compress or copy it again."
            ) from error
        except OSError as error:
            if self._file.compression == "zst" and error.errno is None:
                raise DataError(
                    f"{path} is not a complete Zstandard file ({error}); compress or copy it again."
                ) from error
            raise DataError(f"{path} cannot be read: {error.strerror}; check it.") from error

    def _passages(self) -> Iterator[Passage]:
        if self._file.format is FileFormat.parquet:
            yield from self._rows()
            return
        with ExitStack() as stack:
            raw = stack.enter_context(Path(self._file.path).open("rb", buffering=0))
            if self._file.format is FileFormat.text:
                yield self._whole(self._open(raw, stack=stack))
            elif self._file.compression is None:
                yield from self._lines(self._owned(raw))
            else:
                stream = self._open(raw, stack=stack)
                yield from self._lines(iter(lambda: stream.read(PASSAGE_BYTES), b""))

    def _open(self, raw: io.FileIO, *, stack: ExitStack) -> io.BufferedIOBase | BinaryIO:
        """The file's content, decompressed."""
        source = io.BufferedReader(_Watched(raw, watcher=self._seen), PASSAGE_BYTES)
        match self._file.compression:
            case "gz":
                return stack.enter_context(gzip.GzipFile(fileobj=source))
            case "zst":
                return stack.enter_context(parquet.open_zstd(source))
        return source

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

    def _whole(self, stream: io.BufferedIOBase | BinaryIO) -> Passage:
        """All of the file as one value; it is cut just after the limit, and the rest only read."""
        value = stream.read(self._max_bytes + 1)
        while stream.read(PASSAGE_BYTES):
            pass
        return self._made([value], num_lines=1)

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
        self, content: bytes | list[object], *, num_lines: int, bad: tuple[BadLine, ...] = ()
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
