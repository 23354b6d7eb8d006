# SPDX-License-Identifier: Apache-2.0
"""The required number of items is right: suites of that size decide as often as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacpt.evaluate.statistics.difference import difference
from megacpt.evaluate.statistics.noise import Noise
from megacpt.evaluate.statistics.sample_size import items_needed
from tests.evaluate.statistics.suites import Truth

LIMIT = 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "pilot",
    [
        Truth(clusters=4_000, flips=0.1),
        Truth(clusters=4_000, size=10, flips=0.15, alike=0.1),
    ],
    ids=str,
)
def test_so_many_items_pass_an_unchanged_model_four_times_of_five(pilot: Truth) -> None:
    generator = np.random.default_rng(1)
    measured = difference(pilot.draw(generator), seed=1)
    needed = items_needed(measured, distance=LIMIT, confidence=0.95)
    assert needed is not None
    suite = replace(pilot, clusters=round(needed / pilot.size))
    passed = sum(
        difference(suite.draw(generator), seed=seed, resamples=1_000).interval(0.95).low > -LIMIT
        for seed in range(2_000)
    )
    # 2,000 suites: 0.9 %; the variance of 4,000 clusters is known to 2.2 %: 0.9 % of the power.
    assert passed / 2_000 == pytest.approx(0.8, abs=0.03)


def test_by_hand() -> None:
    """Flips of a tenth of 1,000 items: (1.960 + 0.842)^2 0.1 / 0.02^2."""
    generator = np.random.default_rng(1)
    measured = difference(Truth(clusters=1_000, flips=0.1).draw(generator), seed=1)
    per_item = measured.standard_error**2 * 1_000
    assert per_item == pytest.approx(0.1, rel=0.15)
    needed = items_needed(measured, distance=LIMIT, confidence=0.95)
    assert needed == pytest.approx(7.849 * per_item / LIMIT**2, rel=0.001)


def test_a_tiny_suite_without_a_flip_asks_for_many_more() -> None:
    found = difference(Truth(clusters=10, flips=0).draw(np.random.default_rng(1)), seed=1)
    needed = items_needed(found, distance=LIMIT, confidence=0.95)
    assert needed == pytest.approx(1_962, abs=2)


def test_one_cluster_does_not_say_how_many_are_needed() -> None:
    pairs = Truth(clusters=1, size=100, flips=0.1).draw(np.random.default_rng(1))
    assert items_needed(difference(pairs, seed=1), distance=LIMIT, confidence=0.95) is None


def test_no_number_of_items_beats_the_noise_of_runs() -> None:
    pairs = Truth(clusters=100, flips=0.1).draw(np.random.default_rng(1))
    noise = Noise(standard_error=0.05, repeats=5)
    found = difference(pairs, seed=1, noise=noise)
    assert items_needed(found, distance=LIMIT, confidence=0.95) is None
