# SPDX-License-Identifier: Apache-2.0
"""The learning rate against its closed form and its fixed points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.sections import OptimConfig, ScheduleConfig
from megacpt.plan.schedule import learning_rate

OPTIM = OptimConfig(lr_peak=2e-5)
schedules = st.builds(
    lambda steps, fraction, final: ScheduleConfig(
        steps=steps, warmup_steps=int(fraction * (steps - 1)), lr_final_fraction=final
    ),
    st.integers(1, 5000),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(schedules)
def test_last_step_uses_the_final_fraction(schedule: ScheduleConfig) -> None:
    last = learning_rate(schedule.steps, optim=OPTIM, schedule=schedule)
    assert last == pytest.approx(schedule.lr_final_fraction * OPTIM.lr_peak, abs=1e-20)


@given(schedules)
def test_end_of_warmup_uses_the_peak_and_nothing_exceeds_it(schedule: ScheduleConfig) -> None:
    rates = [
        learning_rate(step, optim=OPTIM, schedule=schedule) for step in range(1, schedule.steps + 1)
    ]
    if schedule.warmup_steps > 0:
        assert rates[schedule.warmup_steps - 1] == OPTIM.lr_peak
    assert max(rates) <= OPTIM.lr_peak
    warmup = max(schedule.warmup_steps, 1)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(a >= b for a, b in zip(rates[warmup - 1 :], rates[warmup:], strict=False))


def test_values_between_follow_the_cosine() -> None:
    schedule = ScheduleConfig(steps=110, warmup_steps=10, lr_final_fraction=0.1)
    assert learning_rate(1, optim=OPTIM, schedule=schedule) == pytest.approx(2e-6)
    for step in (20, 60, 99):
        cosine = (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        expected = 2e-5 * (0.1 + 0.9 * cosine)
        assert learning_rate(step, optim=OPTIM, schedule=schedule) == pytest.approx(expected)
