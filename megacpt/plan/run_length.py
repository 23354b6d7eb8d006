# SPDX-License-Identifier: Apache-2.0
"""How many steps a run has that says its length in epochs or tokens, and its warmup as a fraction.

An epoch of the run is as many samples of the domain, all sources but replay, as those sources hold
together; how often each one is gone through by then follows from its weight. The steps are the
fewest that reach the length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from megacpt.config.sections import DataConfig, ScheduleConfig
from megacpt.plan.segments import EpochSamples, Segment, exact, step_at, step_at_tokens
from megacpt.text import listed


def with_steps(
    schedule: ScheduleConfig,
    *,
    data: DataConfig,
    segments: Sequence[Segment],
    epoch_samples: EpochSamples,
) -> ScheduleConfig:
    """The same with its length and its warmup in steps."""
    steps = schedule.steps
    if schedule.tokens is not None:
        steps = step_at_tokens(segments, tokens=schedule.tokens)
    if schedule.epochs is not None:
        steps = _steps_of_epochs(
            schedule.epochs, names=domain(data), segments=segments, epoch_samples=epoch_samples
        )
    warmup = schedule.warmup_steps
    if schedule.warmup_fraction is not None:
        warmup = math.ceil(exact(schedule.warmup_fraction) * steps)
    return replace(
        schedule, steps=steps, epochs=None, tokens=None, warmup_steps=warmup, warmup_fraction=None
    )


def domain(data: DataConfig) -> list[str]:
    """Names of the sources that are not replay."""
    replay = data.replay
    return [name for name in data.sources if replay is None or name != replay.source]


def length_sentences(
    wanted: ScheduleConfig, *, data: DataConfig, schedule: ScheduleConfig
) -> Iterator[str]:
    """What was asked and what it comes to."""
    if wanted.epochs is not None:
        names = listed(domain(data))
        yield f"schedule.epochs={wanted.epochs:g} of {names}: {schedule.steps:,} steps"
    if wanted.tokens is not None:
        yield f"schedule.tokens={wanted.tokens:,}: {schedule.steps:,} steps"
    if wanted.warmup_fraction is not None:
        fraction = f"schedule.warmup_fraction={wanted.warmup_fraction:g}"
        yield f"{fraction}: {schedule.warmup_steps:,} steps"


def _steps_of_epochs(
    epochs: float,
    *,
    names: Sequence[str],
    segments: Sequence[Segment],
    epoch_samples: EpochSamples,
) -> int:
    def epochs_a_step(segment: Segment) -> Fraction:
        share = sum((segment.shares.get(name, Fraction(0)) for name in names), Fraction(0))
        held = sum(epoch_samples(name, segment.sequence_length) for name in names)
        return share * segment.global_batch_size / max(held, 1)

    return step_at(segments, amount=exact(epochs), a_step=epochs_a_step)
