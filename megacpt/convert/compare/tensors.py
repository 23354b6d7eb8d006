# SPDX-License-Identifier: Apache-2.0
"""Two models tensor by tensor, a few rows of each in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from megacpt.convert.sources import SourceModel, SourceTensor, bytes_of

READERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPair:
    """One tensor in both models."""

    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    """None: it is not in that one."""
    dtypes: tuple[torch.dtype | None, torch.dtype | None]
    equal: bool
    """The same numbers in the same type: bit for bit."""
    difference: float
    """Largest difference of two elements, in fp64; infinite where they cannot be compared, NaN
    where one side has NaN and the other has not."""
    largest: float
    """Largest magnitude in the first model."""

    def within(self, tolerance: float) -> bool:
        return self.equal or self.difference <= tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class _Distance:
    equal: bool
    difference: float
    largest: float


_FAR = _Distance(equal=False, difference=math.inf, largest=math.nan)


def compare_tensors(a: SourceModel, *, b: SourceModel) -> Iterator[TensorPair]:
    """All tensors of either, in the order of ``a``."""
    names = [*a.tensors, *(name for name in b.tensors if name not in a.tensors)]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(
            lambda name: _pair(name, a=a.tensors.get(name), b=b.tensors.get(name)), names
        )


def _pair(name: str, *, a: SourceTensor | None, b: SourceTensor | None) -> TensorPair:
    both = a is not None and b is not None and a.shape == b.shape
    distance = _distance(a, b=b) if a is not None and b is not None and both else _FAR
    return TensorPair(
        name=name,
        shapes=(a.shape if a else None, b.shape if b else None),
        dtypes=(a.dtype if a else None, b.dtype if b else None),
        equal=distance.equal,
        difference=distance.difference,
        largest=distance.largest,
    )


def _distance(a: SourceTensor, *, b: SourceTensor) -> _Distance:
    equal, difference, largest = a.dtype == b.dtype, 0.0, 0.0
    for piece in a.pieces():
        count = piece.stop - piece.start
        ours, theirs = (tensor.rows(piece.start, count=count) for tensor in (a, b))
        largest = _larger(largest, found=float(ours.abs().max()))
        if a.dtype == b.dtype and bytes_of(ours) == bytes_of(theirs):
            continue
        equal = False
        difference = _larger(difference, found=_apart(ours.double(), other=theirs.double()))
    return _Distance(equal=equal, difference=difference, largest=largest)


def _apart(one: torch.Tensor, *, other: torch.Tensor) -> float:
    """Two infinities of one sign, or NaN on both sides, are no difference."""
    alike = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(alike, 0.0, (one - other).abs()).max())


def _larger(known: float, *, found: float) -> float:
    """NaN is larger than any number."""
    return math.nan if math.isnan(known) or math.isnan(found) else max(known, found)
