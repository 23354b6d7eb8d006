# SPDX-License-Identifier: Apache-2.0
"""Let glibc keep the memory that tensors free, so that the next step does not fault it in again.

By default glibc gives each large block back to the kernel, which clears every page again when it is
handed out. A training step frees and takes the same blocks over and over.
"""

from __future__ import annotations

import ctypes
import sys

LARGEST_BLOCK = 2**25
"""Blocks up to this size are kept; glibc takes no larger threshold (HEAP_MAX_SIZE / 2)."""
# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


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
