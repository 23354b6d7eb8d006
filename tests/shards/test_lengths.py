# SPDX-License-Identifier: Apache-2.0
"""Length statistics against NumPy on the whole array."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.shards.lengths import BUCKETS, LEADING_BITS, LengthCounter, bucket_of, first_of

lengths = st.lists(st.one_of(st.integers(0, 5000), st.integers(0, 1 << 45)), max_size=40)


def counted(values: list[int], *, pieces: int = 1) -> LengthCounter:
    counter = LengthCounter()
    for piece in np.array_split(np.array(values, dtype=np.int64), pieces):
        counter.add(piece)
    return counter


@pytest.mark.parametrize("bits", [2, LEADING_BITS])
def test_buckets_have_no_gaps_and_are_narrow(bits: int) -> None:
    numbers = np.arange((62 - bits) << bits)
    firsts = first_of(numbers, bits=bits)
    assert firsts[0] == 0
    assert bucket_of(firsts, bits=bits).tolist() == numbers.tolist()
    lasts = firsts[1:] - 1
    assert bucket_of(lasts, bits=bits).tolist() == numbers[:-1].tolist()
    assert np.all((lasts - firsts[:-1]) * (1 << bits) <= np.maximum(firsts[:-1], 1))
    powers = 1 << np.arange(60)
    assert set(powers.tolist()) <= set(firsts.tolist())


def test_the_largest_length_has_a_bucket() -> None:
    assert bucket_of(np.array([np.iinfo(np.int64).max >> 1]), bits=LEADING_BITS)[0] < BUCKETS


@given(values=lengths, pieces=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_statistics_equal_those_of_the_whole_array(values: list[int], pieces: int) -> None:
    found = counted(values, pieces=pieces).statistics()
    assert (found.documents, found.longest) == (len(values), max(values, default=0))
    assert found.tokens == pytest.approx(sum(values), rel=1e-12)
    assert found.shortest == min(values, default=0)
    for share, quantile in (
        (0.5, found.median),
        (0.9, found.percentile_90),
        (0.99, found.percentile_99),
    ):
        exact = (
            np.quantile(np.array(values), share, method="inverted_cdf") if values else np.int64(0)
        )
        assert exact * (1 - 2.0**-LEADING_BITS) - 1e-9 <= quantile <= exact


@given(values=lengths)
@settings(deadline=None, max_examples=60)
def test_bins_hold_every_document_once(values: list[int]) -> None:
    bins = counted(values).statistics().bins
    assert sum(b.documents for b in bins) == len(values)
    assert sum(b.tokens for b in bins) == pytest.approx(sum(values), rel=1e-12)
    for b in bins:
        assert b.documents == sum(b.first <= value <= b.last for value in values)
    assert all(a.last + 1 == b.first for a, b in pairwise(bins))
