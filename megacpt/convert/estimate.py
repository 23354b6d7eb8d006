# SPDX-License-Identifier: Apache-2.0
"""What a conversion would read and write, and how long that takes, with nothing left behind."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megacpt.convert.conversion import (
    Conversion,
    bytes_left,
    explained,
    planned_files,
    require_place,
    require_room,
)
from megacpt.convert.stream import WRITERS, OutputFile, Piece, write_files

SAMPLE_BYTES = 2**25
"""Of each of the first files; a second on a slow disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The size of the work, and the speed of its beginning."""

    tensors: int
    read_bytes: int
    """Of weights."""
    bytes: int
    files: int
    left_bytes: int
    """What an earlier start has not written."""
    free_bytes: int
    sample_bytes: int
    sample_s: float

    @property
    def seconds(self) -> float:
        return self.left_bytes * self.sample_s / self.sample_bytes


def estimate(conversion: Conversion) -> Estimate:
    """Write the first rows aside, and delete them; errors are those of ``convert``."""
    require_place(conversion)
    files = planned_files(conversion)
    left = bytes_left(conversion, files=files)
    tensors = conversion.source.tensors
    with explained(conversion):
        parent = next(p for p in conversion.destination.absolute().parents if p.is_dir())
        require_room(left, folder=parent)
        sample = list(_beginnings(files))
        with tempfile.TemporaryDirectory(prefix=".megacpt-", dir=parent) as scratch:
            before = time.monotonic()
            write_files(sample, folder=Path(scratch))
            elapsed_s = time.monotonic() - before
        return Estimate(
            tensors=len(tensors),
            read_bytes=sum(tensor.bytes for tensor in tensors.values()),
            bytes=sum(file.bytes for file in files),
            files=len(files),
            left_bytes=left,
            free_bytes=shutil.disk_usage(parent).free,
            sample_bytes=sum(file.bytes for file in sample),
            sample_s=elapsed_s,
        )


def _beginnings(files: Sequence[OutputFile]) -> Iterator[OutputFile]:
    for file in files[:WRITERS]:
        yield replace(file, pieces=list(_first(file.pieces)))


def _first(pieces: Sequence[Piece]) -> Iterator[Piece]:
    held = 0
    for piece in pieces:
        if held and held + piece.bytes > SAMPLE_BYTES:
            return
        held += piece.bytes
        yield piece
