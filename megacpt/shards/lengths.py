# SPDX-License-Identifier: Apache-2.0
"""How long documents are, counted in memory that does not grow with their number.

A length below 4,096 has a bucket of its own; above, a bucket holds lengths that differ by less
than 1/2048, so quantiles are within 0.05 %. Bucket edges include every power of two and the
quarters between two of them, which are the bins of the histogram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEADING_BITS = 11
BUCKETS = (65 - LEADING_BITS) << LEADING_BITS
QUARTERS = 2
"""Leading bits of a bin of the histogram: four in each doubling."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBin:
    """Documents of ``first`` to ``last`` tokens."""

    first: int
    last: int
    documents: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthStatistics:
    documents: int
    tokens: int
    shortest: int
    median: int
    percentile_90: int
    percentile_99: int
    longest: int
    mean: float
    bins: tuple[LengthBin, ...]
    """Bins without gaps, from that of the shortest document to that of the longest."""


class LengthCounter:
    """``add`` arrays of lengths, then ask for ``statistics``."""

    def __init__(self) -> None:
        self._documents: Counts = np.zeros(BUCKETS, dtype=np.int64)
        self._tokens: Counts = np.zeros(BUCKETS, dtype=np.int64)
        self._shortest, self._longest = np.iinfo(np.int64).max, 0

    def add(self, lengths: npt.NDArray[np.int64]) -> None:
        if not lengths.size:
            return
        buckets = bucket_of(lengths, bits=LEADING_BITS)
        self._documents += np.bincount(buckets, minlength=BUCKETS)
        # Floats are exact below 2^53 tokens in one call.
        sums = np.bincount(buckets, weights=lengths, minlength=BUCKETS)
        self._tokens += sums.astype(np.int64)
        self._shortest = min(self._shortest, int(lengths.min()))
        self._longest = max(self._longest, int(lengths.max()))

    def statistics(self) -> LengthStatistics:
        documents, tokens = int(self._documents.sum()), int(self._tokens.sum())
        return LengthStatistics(
            documents=documents,
            tokens=tokens,
            shortest=self._shortest if documents else 0,
            median=self._quantile(0.5),
            percentile_90=self._quantile(0.9),
            percentile_99=self._quantile(0.99),
            longest=self._longest,
            mean=tokens / max(documents, 1),
            bins=self._bins(),
        )

    def _quantile(self, share: float) -> int:
        """The least length that ``share`` of the documents do not exceed."""
        up_to = np.cumsum(self._documents)
        bucket = np.searchsorted(up_to, np.ceil(share * up_to[-1]))
        return min(int(first_of(bucket, bits=LEADING_BITS)), self._longest)

    def _bins(self) -> tuple[LengthBin, ...]:
        used = np.flatnonzero(self._documents)
        if not used.size:
            return ()
        bin_of_bucket = bucket_of(first_of(used, bits=LEADING_BITS), bits=QUARTERS)
        low, high = int(bin_of_bucket[0]), int(bin_of_bucket[-1])
        documents, tokens = np.zeros((2, high - low + 1), dtype=np.int64)
        np.add.at(documents, bin_of_bucket - low, self._documents[used])
        np.add.at(tokens, bin_of_bucket - low, self._tokens[used])
        edges = first_of(np.arange(low, high + 2), bits=QUARTERS)
        return tuple(
            LengthBin(
                first=int(edges[n]),
                last=int(edges[n + 1]) - 1,
                documents=int(documents[n]),
                tokens=int(tokens[n]),
            )
            for n in range(documents.size)
        )


def bucket_of(lengths: npt.NDArray[np.int64], *, bits: int) -> npt.NDArray[np.int64]:
    """The number of the bucket: the ``bits + 1`` leading bits, and how many bits were dropped."""
    dropped = np.maximum(np.frexp(lengths)[1] - (bits + 1), 0).astype(np.int64)
    buckets: npt.NDArray[np.int64] = (dropped << bits) + (lengths >> dropped)
    return buckets


def first_of(buckets: npt.ArrayLike, *, bits: int) -> npt.NDArray[np.int64]:
    """The least length in each bucket."""
    numbers: npt.NDArray[Any] = np.asarray(buckets, dtype=np.int64)
    dropped = np.maximum((numbers >> bits) - 1, 0)
    lengths: npt.NDArray[np.int64] = (numbers - (dropped << bits)) << dropped
    return lengths
