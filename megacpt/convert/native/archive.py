# SPDX-License-Identifier: Apache-2.0
"""The archives in which torch keeps one tensor of a distributed checkpoint, without the tensor.

torch itself writes and reads them: told to leave the values out, it says what stands before and
behind them. So values of any size go through no memory of their own.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import torch
from torch.serialization import get_crc32_options, set_crc32_options, skip_data

from megacpt.checkpoint.stored.torch_file import StoredTensor, read_torch_file
from megacpt.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """All bytes of an archive but the values."""

    head: bytes
    tail: bytes
    value_bytes: int

    @property
    def bytes(self) -> int:
        return len(self.head) + self.value_bytes + len(self.tail)


@lru_cache(maxsize=4096)
def archive_of(shape: tuple[int, ...], *, dtype: torch.dtype) -> Archive:
    """As ``torch.save`` writes a contiguous tensor; its values are never touched, so take no
    memory."""
    writes = _Writes()
    before = get_crc32_options()
    # Of values that are not there it can take none; nothing compares it.
    set_crc32_options(False)
    try:
        with skip_data():
            torch.save(torch.empty(shape, dtype=dtype), cast(IO[bytes], writes))
    finally:
        set_crc32_options(before)
    head, tail = writes.before.getvalue(), writes.behind.getvalue()
    return Archive(head=head, tail=tail, value_bytes=writes.skipped)


class _Writes(io.RawIOBase):
    """Keeps what is written, and how far the one seek goes that stands for the values."""

    def __init__(self) -> None:
        self.before, self.behind, self.skipped = io.BytesIO(), io.BytesIO(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return (self.behind if self.skipped else self.before).write(data)  # type: ignore[arg-type]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_CUR
        assert not self.skipped
        self.skipped = offset
        return offset


def values_at(
    file: Path, *, at: int, length: int, shape: tuple[int, ...], dtype: torch.dtype
) -> int:
    """The byte of ``file`` where the values of the tensor begin whose archive is at ``at``."""
    expected = archive_of(shape, dtype=dtype)
    with file.open("rb") as stream:
        stream.seek(at)
        if length == expected.bytes and stream.read(len(expected.head)) == expected.head:
            return at + len(expected.head)
    # Another version of torch, or a tensor that was written as part of a larger one.
    found = read_torch_file(file, start=at, length=length)
    fits = isinstance(found, StoredTensor) and (found.shape, found.dtype) == (shape, dtype)
    if not fits or not found.is_contiguous:
        raise CheckpointError(
            f"{file} has {_said(found)} at byte {at}, where .metadata says {list(shape)} and "
            f"{dtype}; bring it back from a copy."
        )
    return int(found.start + found.first * dtype.itemsize)


def _said(found: object) -> str:
    if not isinstance(found, StoredTensor):
        return "no tensor"
    return f"a tensor of shape {list(found.shape)} and type {found.dtype}"
