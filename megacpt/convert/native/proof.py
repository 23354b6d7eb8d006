# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a checkpoint are what was written, found out while they are read for their
weights: checksums take the bytes as they come, so that the disk gives each of them once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

import xxhash

from megacpt.checkpoint.manifest import CheckpointManifest, FileSum
from megacpt.checkpoint.verify import CHANGED
from megacpt.convert.sources import read_exactly
from megacpt.errors import CheckpointError

READ_BYTES = 2**19
"""What is read at once for the sum alone."""
GAP_BYTES = 2**26
"""So far behind the bytes summed, those asked for are summed at once, with all between; whoever
asks waits for it. What is asked for further off is read again in the end."""
TAIL_BYTES = 2**16
"""An archive has less than that behind its values."""
_READERS = 4


class ProvenFile:
    """A file that is summed in order, from what is read of it in about that order."""

    def __init__(self, path: Path, *, written: FileSum, stopped: Event) -> None:
        self.path, self._written, self._stopped = path, written, stopped
        self._tensors: dict[str, None] = {}
        self._weight_bytes = 0
        self._lock = Lock()
        self.begin(as_read=False)

    def hold(self, tensors: Iterable[str], *, num_bytes: int) -> None:
        """Note that some of these weights lie in it."""
        self._tensors |= dict.fromkeys(tensors)
        self._weight_bytes += num_bytes

    @property
    def is_for_weights(self) -> bool:
        """Whether most of it will be asked for."""
        return 2 * self._weight_bytes >= self._written.bytes

    def begin(self, *, as_read: bool) -> None:
        """Sum anew; ``as_read``: whatever ``read`` is asked for from now on."""
        self._sum, self._summed, self._as_read = xxhash.xxh3_128(), 0, as_read

    def read(self, out: memoryview, *, at: int, what: str) -> None:
        """Fill ``out`` from the byte ``at`` on; ``CheckpointError`` where that completes the sum,
        and it is another."""
        read_exactly(out, file=self.path, at=at, what=what)
        if self._as_read:
            with self._lock:
                self._take(out, at=at)

    def finish(self) -> None:
        """Sum what is left, and compare."""
        with self._lock:
            self._read_on(self._written.bytes)
            self._compare()

    def _take(self, values: memoryview, *, at: int) -> None:
        end = at + len(values)
        if end <= self._summed or at - self._summed > GAP_BYTES:
            return
        self._read_on(at)
        self._sum.update(values[self._summed - at :])
        self._summed = end
        if self._written.bytes - end <= TAIL_BYTES:
            self._read_on(self._written.bytes)
            self._compare()

    def _read_on(self, end: int) -> None:
        buffer = memoryview(bytearray(min(READ_BYTES, max(end - self._summed, 0))))
        while self._summed < end and not self._stopped.is_set():
            part = buffer[: end - self._summed]
            read_exactly(part, file=self.path, at=self._summed, what="what was written of it")
            self._sum.update(part)
            self._summed += len(part)

    def _compare(self) -> None:
        if self._stopped.is_set() or self._sum.hexdigest() == self._written.xxh128:
            return
        first, *others = self._tensors or ("",)
        holds = f"; it holds {first}" if first else ""
        more = f" and {len(others)} more" if others else ""
        raise CheckpointError(
            f"{self.path.parent} is damaged: {self.path.name} {CHANGED}{holds}{more}; bring it "
            "back from a copy."
        )


class Proof:
    """Of all files of a checkpoint."""

    def __init__(self, folder: Path, *, manifest: CheckpointManifest) -> None:
        self._folder, self._stopped = folder, Event()
        self._files = {
            name: ProvenFile(folder / name, written=written, stopped=self._stopped)
            for name, written in manifest.files.items()
        }

    def file(self, name: str) -> ProvenFile:
        if name not in self._files:
            raise CheckpointError(
                f"{self._folder}: .metadata places weights in {name}, of which the manifest knows "
                "nothing; bring the folder back from a copy."
            )
        return self._files[name]

    @contextmanager
    def proving(self) -> Iterator[None]:
        """Compare all files with their sums while some are read; ``CheckpointError`` names the one
        that has changed. Those that hold little of the weights are read beside."""
        self._stopped.clear()
        files = self._files.values()
        for file in files:
            file.begin(as_read=file.is_for_weights)
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                beside = [pool.submit(f.finish) for f in files if not f.is_for_weights]
                yield
                for proof in [*beside, *(pool.submit(f.finish) for f in files if f.is_for_weights)]:
                    proof.result()
            finally:
                self._stopped.set()
