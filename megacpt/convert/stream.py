# SPDX-License-Identifier: Apache-2.0
"""Write large files a piece at a time, several at once, so that a kill costs one file at most.

What stands where in each file is known before: room is set aside, pieces go to their places in any
order, and a file gets its name when all of it is on the disk. Whoever comes after an interruption
finds the files that have their names and writes the others. Memory: one piece for each writer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock, local
from typing import Protocol

import torch
import xxhash

from megacpt.checkpoint.manifest import FileSum
from megacpt.checkpoint.verify import sums_of
from megacpt.convert.sources import Fill, LiesAt, bytes_of
from megacpt.files import sync

PIECE_BYTES = 2**24
"""What a writer takes at once, where it need not take a whole file."""
CHUNK_BYTES = 2**19
"""Of a piece in memory: it stays in the core's own cache from the read to the write, which halves
what both cost."""
WRITERS = 4
"""A parallel file system gives more to several; on a local one they overlap reading and writing."""
_PARTIAL = ".partial"


class Progress(Protocol):
    """Told how many bytes of how many are written."""

    def __call__(self, done: int, total: int, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A few rows of a tensor, and what stands around them in the file."""

    at: int
    """Byte of the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: Fill
    """Of the piece's own rows."""
    head: bytes = b""
    tail: bytes = b""
    place: LiesAt | None = None
    """Where its values begin to be read, if that is best done in the order of the file."""

    @property
    def value_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return len(self.head) + self.value_bytes + len(self.tail)

    def chunks(self) -> Iterator[slice]:
        """Its rows, a few at a time."""
        step = max(1, CHUNK_BYTES * self.shape[0] // max(self.value_bytes, 1))
        for first in range(0, self.shape[0], step):
            yield slice(first, min(first + step, self.shape[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file whose every byte is told: the head, then the pieces, which leave no gap."""

    name: str
    pieces: Sequence[Piece]
    head: bytes = b""
    summed: bool = False
    """Its checksum is wanted, so that one writer takes all of it, in order."""

    @property
    def bytes(self) -> int:
        return len(self.head) + sum(piece.bytes for piece in self.pieces)

    def lanes(self) -> list[list[Piece]]:
        """What one writer takes in a row: all of a file that is summed; else all that is read from
        one file, in its order."""
        if self.summed:
            return [list(self.pieces)]
        lanes: dict[object, list[Piece]] = {}
        for number, piece in enumerate(self.pieces):
            lanes.setdefault(number if piece.place is None else piece.place.file, []).append(piece)
        return [sorted(lane, key=_place_of) for lane in lanes.values()]


def _place_of(piece: Piece) -> int:
    return piece.place.at if piece.place is not None else 0


def unwritten_bytes(files: Sequence[OutputFile], *, folder: Path) -> int:
    """What is still to be written."""
    return sum(file.bytes for file in files if not _is_written(file, folder=folder))


def write_files(
    files: Sequence[OutputFile],
    *,
    folder: Path,
    progress: Progress = lambda done, total: None,
    writers: int = WRITERS,
) -> Mapping[str, FileSum]:
    """Write those that are not there, durably; the sums of those that are ``summed``."""
    written = [file for file in files if _is_written(file, folder=folder)]
    left = [file for file in files if file not in written]
    sums = sums_of(folder, names=[file.name for file in written if file.summed])
    count = _Count(
        sum(file.bytes for file in written), total=sum(f.bytes for f in files), progress=progress
    )
    work = _Work(folder=folder, count=count)
    jobs = [_Job(file, work=work) for file in left]
    with ThreadPoolExecutor(writers) as pool:
        futures = [pool.submit(task) for job in jobs for task in job.tasks()]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            work.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for job in jobs:
                job.close()
    sync(folder)
    return {**sums, **{job.file.name: job.sum for job in jobs if job.sum is not None}}


def _is_written(file: OutputFile, *, folder: Path) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


class _Count:
    """Bytes written so far, over all threads."""

    def __init__(self, done: int, *, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = done, total, progress
        self._lock = Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self._done += number
            self._progress(self._done, self._total)


class _Buffers(local):
    """One for each thread: fresh memory for each piece would take as long as reading it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def tensor(self, shape: tuple[int, ...], *, dtype: torch.dtype) -> torch.Tensor:
        size = torch.Size(shape).numel() * dtype.itemsize
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory[:size].view(dtype).view(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What all files have in common."""

    folder: Path
    count: _Count
    buffers: _Buffers = field(default_factory=_Buffers)
    stopped: Event = field(default_factory=Event)
    """By a failure or Ctrl-C: no further piece is begun."""


class _Job:
    """One file on its way."""

    def __init__(self, file: OutputFile, *, work: _Work) -> None:
        self.file, self._work = file, work
        self._path = work.folder / f"{file.name}{_PARTIAL}"
        self._lanes = file.lanes()
        self._left = len(self._lanes)
        self._handle: int | None = None
        self._lock = Lock()
        self.sum: FileSum | None = None

    def tasks(self) -> Iterator[Callable[[], None]]:
        for lane in self._lanes:
            yield partial(self._write_lane, lane)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _write_lane(self, pieces: Sequence[Piece]) -> None:
        digest = xxhash.xxh3_128(self.file.head) if self.file.summed else None
        for piece in pieces:
            if self._work.stopped.is_set():
                return
            for part in self._write(piece):
                if digest is not None:
                    digest.update(part)
        if digest is not None:
            self.sum = FileSum(bytes=self.file.bytes, xxh128=digest.hexdigest())
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._finish()

    def _opened(self) -> int:
        with self._lock:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
                if self.file.bytes:
                    os.posix_fallocate(self._handle, 0, self.file.bytes)
                _write_at(self._handle, parts=[memoryview(self.file.head)], at=0)
                self._work.count.add(len(self.file.head))
            return self._handle

    def _write(self, piece: Piece) -> Iterator[memoryview]:
        """Write it and yield its bytes, each part before the next takes its memory."""
        handle, at = self._opened(), piece.at
        for rows in piece.chunks():
            shape = (rows.stop - rows.start, *piece.shape[1:])
            values = self._work.buffers.tensor(shape, dtype=piece.dtype)
            piece.fill(values, first=rows.start)
            parts = [bytes_of(values)]
            if rows.start == 0:
                parts.insert(0, memoryview(piece.head))
            if rows.stop == piece.shape[0]:
                parts.append(memoryview(piece.tail))
            at += _write_at(handle, parts=parts, at=at)
            yield from parts
        if sys.platform == "linux":
            # The disk begins with it now, not when the file is flushed.
            os.posix_fadvise(handle, piece.at, piece.bytes, os.POSIX_FADV_DONTNEED)
        self._work.count.add(piece.bytes)

    def _finish(self) -> None:
        handle = self._opened()
        os.fsync(handle)
        self.close()
        self._path.rename(self._work.folder / self.file.name)


def _write_at(handle: int, *, parts: Sequence[memoryview], at: int) -> int:
    """Write all of them and return how many bytes that was."""
    left, start = [part for part in parts if len(part)], at
    while left:
        count = os.pwritev(handle, left, at)
        at += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]
    return at - start
