# SPDX-License-Identifier: Apache-2.0
"""A folder's free space and how fast it takes what must survive a power cut, as checkpoints do."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 2**21
"""Written and forced to the disk at once: a slow disk is told after one piece, not after all."""
TOTAL_BYTES = 2**24
LIMIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """``problem``: why nothing could be written, in the system's words."""

    folder: str
    free_gib: float = 0.0
    written_mib_s: float = 0.0
    clock_ahead_s: float = 0.0
    """Of the file server, by the time it gives a file; a local disk has this machine's clock."""
    problem: str = ""


def measure(folder: Path, *, total_bytes: int = TOTAL_BYTES, limit_s: float = LIMIT_S) -> Disk:
    """Writes to a file without a name, so that nothing is left behind whatever happens."""
    try:
        free_gib = shutil.disk_usage(folder).free / 2**30
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            rate, ahead_s = _write(file.fileno(), total_bytes=total_bytes, limit_s=limit_s)
    except OSError as error:
        return Disk(folder=str(folder), problem=error.strerror or str(error))
    return Disk(
        folder=str(folder),
        free_gib=free_gib,
        written_mib_s=rate / 2**20,
        clock_ahead_s=ahead_s,
    )


def _write(handle: int, *, total_bytes: int, limit_s: float) -> tuple[float, float]:
    """Bytes a second, and how far the file's time is ahead of ours."""
    # Random: file systems that compress, or skip zeros, would look too fast.
    piece = os.urandom(PIECE_BYTES)
    written = 0
    began_at, started_s = time.time(), time.perf_counter()
    while written < total_bytes and time.perf_counter() - started_s < limit_s:
        written += os.write(handle, piece)
        os.fsync(handle)
    elapsed_s = time.perf_counter() - started_s
    return written / elapsed_s, _outside(
        os.fstat(handle).st_mtime, earliest=began_at, latest=time.time()
    )


def _outside(moment: float, *, earliest: float, latest: float) -> float:
    """How far ``moment`` is from the span: a server may note the time when data comes, not leaves.

    Kernels count file times in ticks, so what is a few milliseconds early is not.
    """
    return max(moment - latest, 0.0) + min(moment - earliest + 0.02, 0.0)
