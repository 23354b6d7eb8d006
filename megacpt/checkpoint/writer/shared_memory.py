# SPDX-License-Identifier: Apache-2.0
"""Memory that one process fills with tensors and another one reads."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from megacpt.device import runtime

ALIGNMENT = 64
_MADV_POPULATE_WRITE = 23
"""Of madvise(2), since Linux 5.14: all pages at once, or an error where there are not so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor lies; ``offset`` in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, memory: mmap.mmap) -> torch.Tensor:
        """It looks into ``memory`` and keeps it alive."""
        count = math.prod(self.shape)
        if count == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.offset)
        return flat.view(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Still to be made; both are bytes in a row."""

    source: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]

    def make(self) -> None:
        """On one core and without the interpreter: NumPy lets go of it, torch would start threads
        that take the cores of a forward pass."""
        np.copyto(self.target, self.source)


class SharedMemory:
    """As much as the largest snapshot needed, kept from one to the next: new pages cost time."""

    def __init__(self) -> None:
        """``OSError`` where the system gives no file."""
        self.file = _anonymous_file()
        """Its descriptor, which a forked process has too."""
        self.size = 0
        self._memory: mmap.mmap | None = None
        self._unlock: Callable[[], None] = _nothing

    def reserve(self, tensors: Sequence[torch.Tensor]) -> None:
        """Make the file as long as it takes to hold ``tensors``; whoever populates it first gets
        its pages for all."""
        self._lengthen(_laid_out(tensors)[1])

    def hold(self, tensors: Sequence[torch.Tensor]) -> tuple[list[Place], list[Copy]]:
        """Copy ``tensors``, of any device; what was held before is gone. ``OSError`` without room.

        What lies in a device's memory has arrived when it returns. Of what lies in this one's, the
        copies are left to be made.
        """
        places, end = _laid_out(tensors)
        devices = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
        memory = self._at_least(end, page_locked=bool(devices))
        copies = []
        for tensor, place in zip(tensors, places, strict=True):
            target = place.tensor(memory)
            if tensor.device.type == "cpu" and tensor.is_contiguous():
                copies.append(Copy(source=_bytes_of(tensor), target=_bytes_of(target)))
            else:
                target.copy_(plain(tensor), non_blocking=True)
        for device in devices:
            runtime.synchronize(device)
        return places, copies

    def _lengthen(self, size: int) -> None:
        if max(size, mmap.PAGESIZE) > self.size:
            self.size = max(size, mmap.PAGESIZE)
            os.ftruncate(self.file, self.size)

    def _at_least(self, size: int, *, page_locked: bool) -> mmap.mmap:
        self._lengthen(size)
        if self._memory is None or self.size > len(self._memory):
            self._unlock()
            self._unlock = _nothing
            memory = mapped(self.file, size=self.size)
            # Before it is kept: what could not be populated must not be used by the next save.
            populate(memory)
            self._memory = memory
            if page_locked:
                self._unlock = runtime.page_lock(torch.frombuffer(self._memory, dtype=torch.uint8))
        return self._memory


def _bytes_of(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """What lies in ``tensor``, which is contiguous, not a copy of it."""
    found: npt.NDArray[np.uint8] = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return found


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers that a quantised weight of Transformer Engine stands for."""
    values: torch.Tensor = tensor.dequantize() if "dequantize" in type(tensor).__dict__ else tensor
    return values


def _nothing() -> None:
    pass


def _laid_out(tensors: Sequence[torch.Tensor]) -> tuple[list[Place], int]:
    """One behind the other, and where the last one ends."""
    places, end = [], 0
    for tensor in tensors:
        places.append(Place(offset=end, shape=tuple(tensor.shape), dtype=tensor.dtype))
        end += -(-tensor.numel() * tensor.itemsize // ALIGNMENT) * ALIGNMENT
    return places, end


def mapped(file: int, *, size: int) -> mmap.mmap:
    return mmap.mmap(file, size)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("megacpt-snapshot")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def populate(memory: mmap.mmap) -> None:
    """Touching a page that the system does not have would kill the process."""
    try:
        memory.madvise(_MADV_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
