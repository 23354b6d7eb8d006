# SPDX-License-Identifier: Apache-2.0
"""Intervals of simulated suites hold the true difference as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from megacpt.evaluate.items import Scores
from megacpt.evaluate.statistics.difference import Difference, difference, effective_clusters
from megacpt.evaluate.statistics.noise import Noise
from megacpt.evaluate.statistics.pairing import Pairs, pair, paired
from tests.evaluate.statistics.suites import Truth, scores_of

SUITES = 4_000
RESAMPLES = 1_000
"""Enough where intervals are counted and none is shown."""
COVERED = (0.94, 0.96)


def coverage(truth: Truth, *, suites: int = SUITES) -> float:
    generator = np.random.default_rng(20)
    covered = 0
    for seed in range(suites):
        measured = difference(truth.draw(generator), seed=seed, resamples=RESAMPLES)
        interval = measured.interval(0.95)
        covered += interval.low <= truth.difference <= interval.high
    return covered / suites


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        Truth(clusters=200, flips=0.1, difference=-0.02),
        Truth(clusters=500, flips=0.1, difference=-0.05),
        Truth(clusters=1000, flips=0.1),
        Truth(clusters=2000, flips=0.2, difference=0.02),
        Truth(clusters=57, size=10, flips=0.15, difference=-0.02, alike=0.05),
        Truth(clusters=57, size=10, flips=0.1, alike=0.1, uneven=True),
        Truth(clusters=20, size=25, flips=0.15, difference=-0.02, alike=0.05),
        Truth(clusters=10, size=50, flips=0.15, difference=-0.02, alike=0.05),
    ],
    ids=str,
)
def test_intervals_cover_the_true_difference_at_94_to_96_percent(truth: Truth) -> None:
    """Of 10,000 suites each it is 94.7 to 95.3 %; the standard error of a share of 4,000 is 0.35 %,
    and seeds are fixed."""
    assert COVERED[0] <= coverage(truth) <= COVERED[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        Truth(clusters=100, flips=0.02, difference=-0.02),
        Truth(clusters=30, flips=0.05),
        Truth(clusters=8, size=20, flips=0.3, difference=-0.1, alike=0.2, uneven=True),
    ],
    ids=str,
)
def test_with_next_to_no_flips_or_few_uneven_clusters_they_are_rather_too_wide(
    truth: Truth,
) -> None:
    assert coverage(truth) >= 0.94


def measured(base: Scores, candidate: Scores) -> Difference:
    return difference(pair(base, candidate=candidate), seed=3)


def test_the_order_of_items_changes_no_bit() -> None:
    pairs = Truth(clusters=40, size=5, flips=0.3, alike=0.2).draw(np.random.default_rng(1))
    base, candidate = scores_of(pairs)
    first = measured(base, candidate)
    mixed = measured(
        replace(base, items=base.items[::-1]),
        replace(candidate, items=candidate.items[7:] + candidate.items[:7]),
    )
    assert np.array_equal(first.plausible_B, mixed.plausible_B)
    assert first.estimate == mixed.estimate


def test_a_seed_repeats_and_another_does_not() -> None:
    pairs = Truth(clusters=300, flips=0.2).draw(np.random.default_rng(1))
    first, again, other = (difference(pairs, seed=seed) for seed in (1, 1, 2))
    assert first.interval(0.95) == again.interval(0.95)
    assert first.interval(0.95) != other.interval(0.95)
    # The ends are known to 2.7 % of a standard error: five times that.
    assert abs(first.interval(0.95).low - other.interval(0.95).low) < 0.14 * first.standard_error


def test_of_many_normal_scores_it_is_student_s_interval() -> None:
    generator = np.random.default_rng(2)
    base_N = generator.normal(0.5, 0.2, 400)
    candidate_N = base_N + generator.normal(0.01, 0.1, 400)
    found = difference(
        paired(base_N, candidate_N=candidate_N, cluster_N=np.arange(400)), seed=1
    ).interval(0.95)
    known = stats.ttest_rel(candidate_N, base_N).confidence_interval(0.95)
    width = known.high - known.low
    # The ends are known to 2.7 % of a standard error: 0.7 % of the width; the part of unseen flips
    # adds 0.1 %. Three times that.
    assert found.low == pytest.approx(known.low, abs=0.024 * width)
    assert found.high == pytest.approx(known.high, abs=0.024 * width)


def test_clusters_that_move_together_count_as_one() -> None:
    """Ten copies of each item have the interval of the items once."""
    once = Truth(clusters=300, flips=0.2).draw(np.random.default_rng(4))
    copies = paired(
        np.repeat(once.base_N, 10),
        candidate_N=np.repeat(once.candidate_N, 10),
        cluster_N=np.repeat(np.arange(300), 10),
    )
    one, ten = difference(once, seed=1), difference(copies, seed=1)
    assert ten.design_effect == pytest.approx(10, rel=0.01)
    assert ten.interval(0.95).low == pytest.approx(one.interval(0.95).low, abs=0.004)


def test_without_any_flip_it_is_unsure_by_two_items() -> None:
    base_N = np.zeros(100)
    found = difference(paired(base_N, candidate_N=base_N, cluster_N=np.arange(100)), seed=1)
    assert found.estimate == 0
    assert found.interval(0.95).low == pytest.approx(-0.021, abs=0.002)


def test_one_cluster_says_nothing() -> None:
    pairs = Truth(clusters=1, size=50, flips=0.2).draw(np.random.default_rng(4))
    interval = difference(pairs, seed=1).interval(0.95)
    assert (interval.low, interval.high) == (-1, 1)


def test_p_values_agree_with_the_interval() -> None:
    pairs = Truth(clusters=500, flips=0.1, difference=-0.05).draw(np.random.default_rng(5))
    found = difference(pairs, seed=1)
    interval = found.interval(0.95)
    assert found.p_at_least(interval.high) == pytest.approx(0.025, abs=0.001)
    assert found.p_at_most(interval.low) == pytest.approx(0.025, abs=0.001)
    assert found.p_of_none() < 0.01
    assert found.p_at_most(-1.0) == pytest.approx(1 / 10_001)


def test_run_to_run_noise_widens_it_in_quadrature() -> None:
    pairs: Pairs = Truth(clusters=500, flips=0.1).draw(np.random.default_rng(5))
    still = difference(pairs, seed=1).interval(0.95)
    noise = Noise(standard_error=0.03, repeats=5)
    found = difference(pairs, seed=1, noise=noise).interval(0.95)
    half = float(np.hypot((still.high - still.low) / 2, stats.t.ppf(0.975, 4) * 0.03))
    # Quadrature is not exact for the sum of a normal and a Student deviation.
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_effective_clusters_are_those_of_equal_size() -> None:
    assert effective_clusters(np.full(20, 3.0)) == pytest.approx(20)
    assert effective_clusters(np.array([1000.0, 1.0, 1.0])) == pytest.approx(1, abs=0.01)
