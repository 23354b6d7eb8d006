# SPDX-License-Identifier: Apache-2.0
"""Let glibc keep the memory that tensors free, so that the next step does not fault it in anew.

By default glibc gives each large block back to the kernel, which clears every page again when it is
handed out. A training step frees and takes the same blocks over and over.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

LARGEST_BLOCK = 2**25
"""Blocks up to this size are kept; glibc takes no larger threshold (HEAP_MAX_SIZE / 2)."""
# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
# Of madvise(2).
_MADV_DONTFORK, _MADV_DOFORK = 10, 11


def keep_freed() -> bool:
    """Whether the C library could be told; those other than glibc have their own ways."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    library.mallopt(_M_MMAP_THRESHOLD, LARGEST_BLOCK)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_M_TOP_PAD, 2 * LARGEST_BLOCK)
    return True


@contextmanager
def left_out_of_forks(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """A child forked inside has no memory of ``tensors``, so that the parent need not copy it.

    For gradients and the like, which the child never reads: it would die of it.
    """
    ranges = [_pages(tensor) for tensor in tensors if tensor.device.type == "cpu"]
    _advise(ranges, _MADV_DONTFORK)
    try:
        yield
    finally:
        _advise(ranges, _MADV_DOFORK)


def _pages(tensor: torch.Tensor) -> tuple[int, int]:
    """Address and size of the whole pages that hold nothing else."""
    storage, page = tensor.untyped_storage(), mmap.PAGESIZE
    first = -(-storage.data_ptr() // page) * page
    last = (storage.data_ptr() + storage.nbytes()) // page * page
    return first, last - first


def _advise(ranges: Iterable[tuple[int, int]], advice: int) -> None:
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    for address, size in ranges:
        if size > 0:
            library.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice)
