# SPDX-License-Identifier: Apache-2.0
"""Write a file a little at a time, to the disk as it grows, and know its checksum at the end."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import xxhash

from megacpt.checkpoint.manifest import FileSum

WRITE_BYTES = 2**18
"""A write is not interrupted: a training thread that wakes up waits for the end of it, here some
tenths of a millisecond."""
WINDOW_BYTES = 2**25
"""Left to the end, gigabytes would fill the page cache, where the training data lies, and then all
go to the disk at once. Sent off every 32 MiB, the disk writes while the next are prepared: 0.86 s
for 2 GiB in place of 1.3 to 3.5."""


class SmallWrites:
    """Stands where torch.distributed.checkpoint asks how an entry goes into its file.

    For one file, of which every entry is written through it.
    """

    def __init__(self, *, rest: Callable[[], None]) -> None:
        """``rest`` is called after each write."""
        self._rest = rest
        self._digest, self._bytes, self._sent = xxhash.xxh3_128(), 0, 0

    def transform_save_stream(self, item: Any, stream: io.IOBase) -> tuple[io.IOBase, list[str]]:
        """Where to write ``item`` to; no reader needs to know of it."""
        return _Stream(stream, writes=self), []

    def write(self, data: memoryview, *, stream: Any) -> None:
        for start in range(0, len(data), WRITE_BYTES):
            block = data[start : start + WRITE_BYTES]
            stream.write(block)
            self._digest.update(block)
            self._bytes += len(block)
            if self._bytes - self._sent >= WINDOW_BYTES:
                self._send_off(stream)
            self._rest()

    def _send_off(self, stream: Any) -> None:
        """Linux begins to write what is new, without a wait, and drops what has been written."""
        self._sent = self._bytes
        if sys.platform == "linux":
            stream.flush()
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def sum(self) -> FileSum:
        return FileSum(bytes=self._bytes, xxh128=self._digest.hexdigest())


class _Stream(io.RawIOBase):
    def __init__(self, stream: io.IOBase, *, writes: SmallWrites) -> None:
        self._stream, self._writes = stream, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._writes.write(view, stream=self._stream)
        return len(view)
