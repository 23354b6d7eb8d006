# SPDX-License-Identifier: Apache-2.0
"""The apportionment: equal to its twin, whole batches, and every source within one sample."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import advance_blend


def blend_twin(rates: list[Fraction], *, num_steps: int) -> list[list[int]]:
    """PD2 as its paper writes it, in exact fractions and absolute time: who draws at each step."""
    drawn = [0] * len(rates)
    steps = []
    for step in range(num_steps):
        due = [d for d, f in enumerate(rates) if f and drawn[d] < f * (step + 1)]
        due.sort(key=lambda d: priority(rates[d], job=drawn[d] + 1, source=d))
        chosen = due[: int(sum(rates))]
        for d in chosen:
            drawn[d] += 1
        steps.append(sorted(chosen))
    return steps


def priority(rate: Fraction, *, job: int, source: int) -> tuple[int, bool, int, int]:
    deadline = ceil(job / rate)
    on_time = Fraction(job) / rate == deadline
    idle = 1 - rate
    group = ceil(ceil(deadline * idle) / idle) if rate >= Fraction(1, 2) else None
    return deadline, on_time, -group if group is not None else 0, source


@st.composite
def remainders(draw: st.DrawFn) -> tuple[list[int], int]:
    """Numerators below a denominator that add up to a multiple of it."""
    denominator = draw(st.integers(2, 60) | st.sampled_from([1 << 40, 10**9 + 7]))
    numerator = st.integers(0, denominator - 1)
    rates = draw(st.lists(numerator, min_size=1, max_size=12))
    rates.append(-sum(rates) % denominator)
    return rates, denominator


@given(blend=remainders())
@settings(max_examples=150, deadline=None)
def test_every_prefix_is_within_one_sample_and_every_batch_is_whole(
    blend: tuple[list[int], int],
) -> None:
    rates, denominator = blend
    lags = [0] * len(rates)
    for _ in range(60):
        extras, lags = advance_blend(rates, denominator=denominator, lags=lags, num_steps=1)
        assert sum(extras) == sum(rates) // denominator
        assert set(extras) <= {0, 1}
        assert all(abs(lag) < denominator for lag in lags)


@given(blend=remainders())
@settings(max_examples=60, deadline=None)
def test_it_equals_its_twin(blend: tuple[list[int], int]) -> None:
    rates, denominator = blend
    twin = blend_twin([Fraction(rate, denominator) for rate in rates], num_steps=25)
    lags = [0] * len(rates)
    for chosen in twin:
        extras, lags = advance_blend(rates, denominator=denominator, lags=lags, num_steps=1)
        assert [d for d, extra in enumerate(extras) if extra] == chosen


@given(blend=remainders(), cut=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_it_can_stop_and_go_on_anywhere(blend: tuple[list[int], int], cut: int) -> None:
    rates, denominator = blend
    start = [0] * len(rates)
    whole = advance_blend(rates, denominator=denominator, lags=start, num_steps=40)
    first, lags = advance_blend(rates, denominator=denominator, lags=start, num_steps=cut)
    rest, end = advance_blend(rates, denominator=denominator, lags=lags, num_steps=40 - cut)
    assert whole == ([a + b for a, b in zip(first, rest, strict=True)], end)


@pytest.mark.parametrize(
    ("rates", "denominator", "lags", "num_steps", "message"),
    [
        ([1, 1], 2, [0], 1, "remainders and lags must be equally long, got 2 and 1"),
        ([1], 2, [0], 1, "remainders must add up to a multiple of denominator=2, got 1"),
        ([2], 2, [0], 1, r"remainders\[0\] is out of range for denominator=2: 2"),
        ([1, 1], 2, [0, 2], 1, r"lags\[1\] is out of range for denominator=2: 2"),
        ([0], 0, [0], 1, r"denominator must be in 1..2\^40, got 0"),
        ([0], 1, [0], -1, "num_steps must be >= 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(
    rates: list[int], denominator: int, lags: list[int], num_steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        advance_blend(rates, denominator=denominator, lags=lags, num_steps=num_steps)
