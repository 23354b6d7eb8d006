# SPDX-License-Identifier: Apache-2.0
"""Sources of a few numbers."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from megacpt.convert.sources import SourceTensor


def held_in_memory(values: torch.Tensor) -> SourceTensor:
    def fill(out: torch.Tensor, *, first: int) -> None:
        out.copy_(values[first : first + len(out)])

    return SourceTensor(shape=tuple(values.shape), dtype=values.dtype, fill=fill)


def count_reads(patch: pytest.MonkeyPatch) -> Counter[str]:
    """The bytes that are read of weights from now on, by file."""
    found: Counter[str] = Counter()
    preadv = os.preadv

    def counting(handle: int, buffers: list[memoryview], at: int) -> int:
        count = preadv(handle, buffers, at)
        found[Path(os.readlink(f"/proc/self/fd/{handle}")).name] += count
        return count

    patch.setattr(os, "preadv", counting)
    return found
