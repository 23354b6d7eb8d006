# SPDX-License-Identifier: Apache-2.0
"""Write a file a little at a time, durable as it grows, and know its checksum at the end."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import xxhash

from megacpt.checkpoint.manifest import FileSum

PIECE_BYTES = 2**18
"""A write is not interrupted: a training thread that wakes up waits for the end of it, here some
tenths of a millisecond."""
WINDOW_BYTES = 2**25
"""Left to the end, gigabytes would fill the page cache and then all go to the disk at once, by
kernel threads that are not as modest as their caller. Forced out and dropped every 32 MiB, the same
few pages serve for all: 0.3 s of CPU a GiB in place of 0.5 to 1.4."""


class SmallWrites:
    """Stands where torch.distributed.checkpoint asks how an entry goes into its file.

    For one file, of which every entry is written through it.
    """

    def __init__(self, *, rest: Callable[[], None]) -> None:
        """``rest`` is called after each piece."""
        self._rest = rest
        self._digest, self._bytes, self._durable = xxhash.xxh3_128(), 0, 0

    def transform_save_stream(self, item: Any, stream: io.IOBase) -> tuple[io.IOBase, list[str]]:
        """Where to write ``item`` to; no reader needs to know of it."""
        return _Stream(stream, self), []

    def write(self, data: memoryview, *, stream: Any) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            stream.write(piece)
            self._digest.update(piece)
            self._bytes += len(piece)
            if self._bytes - self._durable >= WINDOW_BYTES:
                self._force_out(stream)
            self._rest()

    def _force_out(self, stream: Any) -> None:
        self._durable = self._bytes
        if sys.platform == "linux":
            stream.flush()
            os.fdatasync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def sum(self) -> FileSum:
        return FileSum(bytes=self._bytes, xxh128=self._digest.hexdigest())


class _Stream(io.RawIOBase):
    def __init__(self, stream: io.IOBase, writes: SmallWrites) -> None:
        self._stream, self._writes = stream, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._writes.write(view, stream=self._stream)
        return len(view)
