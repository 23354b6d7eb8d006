# SPDX-License-Identifier: Apache-2.0
"""A limit compares as its number does, whoever asks, and remembers what with."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from megacpt.curate.filters.threshold import OPERATORS, Threshold


@pytest.mark.parametrize("kind", [int, float, np.float64, np.float32, np.int64])
@pytest.mark.parametrize("sign", list(OPERATORS))
@pytest.mark.parametrize("value", [1, 2, 3])
def test_compares_as_its_number(kind: Any, sign: str, value: int) -> None:
    limit = Threshold(2)
    assert OPERATORS[sign](kind(value), limit) is OPERATORS[sign](value, 2)
    assert (limit.seen, limit.sign) == (value, sign)
    assert limit.is_broken is OPERATORS[sign](value, 2)
    assert bool(OPERATORS[sign](limit, kind(value))) is OPERATORS[sign](2, value)


@pytest.mark.parametrize("compare", OPERATORS.values())
def test_nothing_is_beyond_none(compare: Any) -> None:
    limit = Threshold(None)
    assert not compare(np.float64(1e300), limit)
    assert limit.seen == 1e300
    assert limit  # `if limit and ...` goes on to the comparison.
    assert Threshold(0)


def test_the_value_nearest_to_breaking_it_is_remembered() -> None:
    most, least = Threshold(0.5), Threshold(0.5)
    for value in (0.1, 0.4, 0.2):
        assert not value > most
        assert value < least
    assert (most.seen, least.seen) == (0.4, 0.1)
    most.forget()
    assert (most.seen, most.is_broken) == (None, False)


def test_without_the_mark_numpy_would_compare_by_itself() -> None:
    class Plain(Threshold):
        __array_ufunc__ = np.ndarray.__array_ufunc__

    limit = Plain(2)
    assert operator.lt(np.float64(1), limit)
    assert limit.seen is None
