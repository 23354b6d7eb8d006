# SPDX-License-Identifier: Apache-2.0
"""The threshold of a spike: what must not change it, what must, and curves it has to live with."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.train.guard.spikes import spike_threshold

Z = 12.0
VALUES = st.lists(st.floats(0.1, 100.0), min_size=4, max_size=40)


@given(VALUES, st.floats(0.01, 100.0))
def test_the_unit_does_not_matter(values: list[float], unit: float) -> None:
    scaled = spike_threshold([unit * value for value in values], z=Z)
    assert scaled == pytest.approx(unit * spike_threshold(values, z=Z))


@given(VALUES)
def test_it_lies_above_where_the_values_have_last_been(values: list[float]) -> None:
    last = values[-max(4, len(values) // 4) :]
    assert spike_threshold(values, z=Z) > np.median(last)


@given(VALUES, st.floats(1.0, 20.0), st.floats(1.01, 3.0))
def test_it_rises_with_z(values: list[float], z: float, more: float) -> None:
    assert spike_threshold(values, z=more * z) > spike_threshold(values, z=z)


@given(st.integers(0, 63), st.floats(1e3, 1e12), st.integers(0, 1000))
def test_one_wild_value_among_many_changes_little(at: int, wild: float, seed: int) -> None:
    noise = random.Random(seed)
    values = [2.0 + noise.gauss(0, 0.05) for _ in range(64)]
    clean = spike_threshold(values, z=Z)
    values[at] = wild
    assert spike_threshold(values, z=Z) == pytest.approx(clean, rel=0.1)


def test_of_normal_noise_it_is_that_many_standard_deviations() -> None:
    noise = random.Random(1)
    values = [10.0 + noise.gauss(0, 0.5) for _ in range(1000)]
    assert spike_threshold(values, z=4.0) == pytest.approx(12.0, abs=0.2)


def test_a_curve_that_stands_still_may_tremble() -> None:
    assert spike_threshold([2.0] * 16, z=Z) == pytest.approx(2.0 * (1 + 0.01 * Z))


@pytest.mark.parametrize("decay_steps", [3.0, 10.0, 40.0, 200.0])
@pytest.mark.parametrize("noise", [0.0, 0.002, 0.03])
def test_a_falling_loss_has_no_spikes_but_real_ones(decay_steps: float, noise: float) -> None:
    """From 10.4 to 2 nats, exponentially, window 64, from step 16 on."""
    draw = random.Random(3)
    losses = [2 + 8.4 * math.exp(-n / decay_steps) + draw.gauss(0, noise) for n in range(300)]
    for n in range(16, 300):
        assert losses[n] <= spike_threshold(losses[max(0, n - 64) : n], z=Z)
    assert losses[-1] + 2.0 > spike_threshold(losses[-65:-1], z=Z)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_gradient_norms_that_grow_through_warmup_are_no_spikes(noise: float) -> None:
    draw = random.Random(4)
    norms = [0.5 + 0.02 * n + draw.gauss(0, noise) for n in range(100)]
    for n in range(16, 100):
        assert norms[n] <= spike_threshold(norms[max(0, n - 64) : n], z=Z)


@given(st.integers(0, 10_000))
def test_heavy_tails_of_gradient_norms_stay_below_the_default(seed: int) -> None:
    """Log-normal with a fifth of scatter: no draw is a spike after 64 others."""
    draw = random.Random(seed)
    norms = [math.exp(draw.gauss(0, 0.2)) for _ in range(65)]
    assert norms[-1] <= spike_threshold(norms[:-1], z=Z)
