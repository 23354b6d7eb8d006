# SPDX-License-Identifier: Apache-2.0
"""Write a file a little at a time, and know its checksum once it is written."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from megacpt.checkpoint.manifest import FileSum

PIECE_BYTES = 2**18
"""A write is not interrupted: a training thread that wakes up waits for the end of it, here some
tenths of a millisecond."""


class SmallWrites:
    """Stands where torch.distributed.checkpoint asks how an entry goes into its file.

    For one file, of which every entry is written through it.
    """

    def __init__(self) -> None:
        self._digest, self._bytes = hashlib.sha256(), 0

    def transform_save_stream(self, item: Any, stream: io.IOBase) -> tuple[io.IOBase, list[str]]:
        """Where to write ``item`` to; no reader needs to know of it."""
        return _Stream(stream, self), []

    def write(self, data: memoryview, *, stream: Any) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            stream.write(piece)
            self._digest.update(piece)
        self._bytes += len(data)

    @property
    def sum(self) -> FileSum:
        return FileSum(bytes=self._bytes, sha256=self._digest.hexdigest())


class _Stream(io.RawIOBase):
    def __init__(self, stream: io.IOBase, writes: SmallWrites) -> None:
        self._stream, self._writes = stream, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._writes.write(view, stream=self._stream)
        return len(view)
