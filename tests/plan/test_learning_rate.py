# SPDX-License-Identifier: Apache-2.0
"""The learning rate against closed forms, at its joints, and over an extended run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.sections import LrShape, OptimConfig, ScheduleConfig
from megacpt.plan.learning_rate import (
    DECAYING,
    decay_start,
    describe,
    final_fraction,
    first_difference,
    fraction_of_peak,
    group_multipliers,
    learning_rate,
    rate_table,
    shown_steps,
)

OPTIM = OptimConfig(lr_peak=2e-5)


@st.composite
def schedules(draw: Callable[..., Any], shapes: tuple[LrShape, ...] = tuple(LrShape)) -> Any:
    """Every schedule that the rules let through."""
    shape, steps = draw(st.sampled_from(shapes)), draw(st.integers(1, 2000))
    warmup = draw(st.integers(0, steps - 1))
    decays = shape in DECAYING
    return ScheduleConfig(
        steps=steps,
        warmup_steps=warmup,
        shape=shape,
        decay_steps=draw(st.integers(1, steps - warmup)) if shape is LrShape.wsd else 0,
        lr_start_fraction=draw(st.floats(0, 1)),
        lr_final_fraction=draw(st.none() | st.floats(0, 1)) if decays else None,
    )


def fractions(schedule: ScheduleConfig) -> list[float]:
    return [fraction_of_peak(step, schedule=schedule) for step in range(1, schedule.steps + 1)]


@given(schedules(shapes=DECAYING))
def test_the_last_step_uses_exactly_the_final_fraction(schedule: ScheduleConfig) -> None:
    assert fraction_of_peak(schedule.steps, schedule=schedule) == final_fraction(schedule)


@given(schedules())
def test_rises_to_exactly_the_peak_and_never_rises_again(schedule: ScheduleConfig) -> None:
    found, warmup = fractions(schedule), schedule.warmup_steps
    assert all(0 <= fraction <= 1 for fraction in found)
    assert found[:warmup] == sorted(found[:warmup])
    if warmup > 0:
        assert found[warmup - 1] == 1
    after = found[max(warmup - 1, 0) :]
    assert after == sorted(after, reverse=True)


@given(schedules())
def test_no_step_jumps(schedule: ScheduleConfig) -> None:
    """Two steps differ by no more than the shape's steepest slope, also across a joint."""
    start, warmup = decay_start(schedule), schedule.warmup_steps
    rise = (1 - schedule.lr_start_fraction) / max(warmup, 1)
    length = max(schedule.steps - start, 1)
    steepest = {
        LrShape.cosine: math.pi / 2 / length,
        LrShape.linear: 1 / length,
        LrShape.wsd: 1 / math.sqrt(length),
        LrShape.constant: 0.0,
        LrShape.inverse_sqrt: 1 - math.sqrt(max(warmup, 1) / (max(warmup, 1) + 1)),
    }[schedule.shape]
    found = fractions(schedule)
    for step, (now, following) in enumerate(pairwise(found), start=1):
        assert abs(following - now) <= (rise if step < warmup else steepest) + 1e-12


@given(schedules())
def test_first_step_of_a_rewarmed_run_follows_where_the_last_one_ended(
    schedule: ScheduleConfig,
) -> None:
    if schedule.warmup_steps > 0:
        start = schedule.lr_start_fraction
        expected = start + (1 - start) / schedule.warmup_steps
        assert fraction_of_peak(1, schedule=schedule) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "step", "fraction"),
    [
        (LrShape.cosine, 60, 0.1 + 0.9 * 0.5),
        (LrShape.cosine, 35, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        (LrShape.linear, 60, 0.1 + 0.9 * 0.5),
        (LrShape.linear, 85, 0.1 + 0.9 * 0.25),
        (LrShape.wsd, 90, 1.0),
        (LrShape.wsd, 95, 0.1 + 0.9 * 0.5),
        (LrShape.wsd, 106, 0.1 + 0.9 * (1 - math.sqrt(0.8))),
        (LrShape.constant, 110, 1.0),
        (LrShape.inverse_sqrt, 40, 0.5),
    ],
)
def test_values_between(shape: LrShape, step: int, fraction: float) -> None:
    schedule = ScheduleConfig(
        steps=110, warmup_steps=10, shape=shape, decay_steps=20 if shape is LrShape.wsd else 0
    )
    found = learning_rate(step, optim=OPTIM, schedule=schedule)
    assert found == pytest.approx(2e-5 * fraction, rel=1e-12)


@given(schedules(shapes=(LrShape.wsd, LrShape.constant, LrShape.inverse_sqrt)), st.integers(1, 99))
def test_a_run_that_does_not_decay_yet_is_extended_exactly(
    schedule: ScheduleConfig, more: int
) -> None:
    longer = replace(schedule, steps=schedule.steps + more)
    undecayed = decay_start(schedule) if schedule.shape is LrShape.wsd else schedule.steps
    assert first_difference((OPTIM, schedule), new=(OPTIM, longer), steps=undecayed) is None


def test_a_cosine_cannot_be_extended() -> None:
    schedule = ScheduleConfig(steps=100, warmup_steps=10)
    longer = replace(schedule, steps=200)
    assert first_difference((OPTIM, schedule), new=(OPTIM, longer), steps=10) is None
    assert first_difference((OPTIM, schedule), new=(OPTIM, longer), steps=50) == 11


def test_shown_steps_are_where_the_shape_turns() -> None:
    assert shown_steps(ScheduleConfig(steps=1, warmup_steps=0)) == [1]
    assert shown_steps(ScheduleConfig(steps=100, warmup_steps=5)) == [1, 5, 50, 100]
    wsd = ScheduleConfig(steps=100, warmup_steps=5, shape=LrShape.wsd, decay_steps=20)
    assert shown_steps(wsd) == [1, 5, 50, 80, 100]


def test_the_table_has_every_step_and_the_groups_that_differ() -> None:
    optim = OptimConfig(lr_peak=1e-5, embedding_lr_multiplier=0.5)
    schedule = ScheduleConfig(steps=4, warmup_steps=2, shape=LrShape.constant)
    assert group_multipliers(optim) == {"embedding": 0.5}
    assert list(rate_table(optim=optim, schedule=schedule)) == [
        "step\tlr\tlr_embedding",
        "1\t5e-06\t2.5e-06",
        "2\t1e-05\t5e-06",
        "3\t1e-05\t5e-06",
        "4\t1e-05\t5e-06",
    ]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (ScheduleConfig(), "5 warmup steps, cosine to 0.1 of it"),
        (
            ScheduleConfig(shape=LrShape.wsd, decay_steps=20, lr_final_fraction=0.0),
            "5 warmup steps, stable, in the last 20 steps 1 - sqrt to 0 of it",
        ),
        (
            ScheduleConfig(shape=LrShape.constant, lr_start_fraction=0.1),
            "5 warmup steps from 0.1 of it, constant",
        ),
    ],
)
def test_words_for_reports(schedule: ScheduleConfig, words: str) -> None:
    assert describe(schedule) == words
