# SPDX-License-Identifier: Apache-2.0
"""Run-to-run noise: what all items share is found, what is the items' own is left to them."""

from __future__ import annotations

import numpy as np
import pytest

from megacpt.errors import CheckpointError
from megacpt.evaluate.statistics.difference import difference
from megacpt.evaluate.statistics.noise import NO_NOISE, noise_between, noise_of
from megacpt.evaluate.statistics.pairing import paired
from tests.evaluate.statistics.suites import scores

SHARED, OWN, ITEMS = 0.02, 0.15, 400


def repeats(generator: np.random.Generator, *, count: int, shared: float) -> np.ndarray:
    ability_N = generator.normal(0.5, 0.2, ITEMS)
    shift_R1 = generator.normal(0, shared, (count, 1))
    return ability_N + shift_R1 + generator.normal(0, OWN, (count, ITEMS))


def test_the_shared_part_is_found_whatever_the_items_own() -> None:
    generator = np.random.default_rng(1)
    found = [
        noise_between(repeats(generator, count=6, shared=SHARED)).standard_error ** 2
        for _ in range(400)
    ]
    # A variance of 5 degrees of freedom, averaged over 400: its standard error is 3 %.
    assert np.mean(found) == pytest.approx(2 * SHARED**2, rel=0.1)


def test_noise_of_the_items_alone_adds_next_to_nothing() -> None:
    generator = np.random.default_rng(2)
    found = [noise_between(repeats(generator, count=6, shared=0)).standard_error for _ in range(50)]
    # sqrt(2) * OWN / sqrt(ITEMS) would count it twice: 0.0106.
    assert np.mean(found) < 0.004


def test_one_measurement_says_nothing_and_others_items_are_refused() -> None:
    base = scores(np.array([0.0, 1.0, 1.0]))
    assert noise_of([base]) == NO_NOISE
    assert noise_of([base, base]).standard_error == 0
    with pytest.raises(CheckpointError, match="not measured on the same items"):
        noise_of([base, scores(np.array([0.0, 1.0]))])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least"), [(3, 0.88), (6, 0.93)])
def test_with_it_intervals_cover_the_difference_of_the_models(count: int, least: float) -> None:
    """Of measurements that all shift at random; three repeats know the shift too
    badly for 95 %, six do not."""
    generator = np.random.default_rng(3)
    covered, suites = 0, 1_000
    for seed in range(suites):
        base_RN = repeats(generator, count=count, shared=SHARED)
        moved = generator.normal(0, SHARED) - 0.03
        candidate_N = base_RN.mean(axis=0) + moved + generator.normal(0, OWN, ITEMS)
        interval = difference(
            paired(base_RN[0], candidate_N=candidate_N, cluster_N=np.arange(ITEMS)),
            seed=seed,
            noise=noise_between(base_RN),
            resamples=2_000,
        ).interval(0.95)
        covered += interval.low <= -0.03 <= interval.high
    # The standard error of a share of 1,000 is 0.7 %.
    assert least <= covered / suites <= 0.98
