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

from megacpt.config.sections import RunConfig, ScheduleConfig
from megacpt.plan.segments import EpochSamples, Segment, exact, step_at, step_at_tokens
from megacpt.text import listed


def with_steps(
    config: RunConfig, *, segments: Sequence[Segment], epoch_samples: EpochSamples
) -> RunConfig:
    """The same run with its length and its warmup in steps."""
    schedule = config.schedule
    steps = schedule.steps
    if schedule.tokens is not None:
        steps = step_at_tokens(segments, tokens=schedule.tokens)
    if schedule.epochs is not None:
        steps = _steps_of_epochs(config, segments=segments, epoch_samples=epoch_samples)
    warmup = schedule.warmup_steps
    if schedule.warmup_fraction is not None:
        warmup = math.ceil(exact(schedule.warmup_fraction) * steps)
    resolved = replace(
        schedule, steps=steps, epochs=None, tokens=None, warmup_steps=warmup, warmup_fraction=None
    )
    return replace(config, schedule=resolved)


def domain(config: RunConfig) -> list[str]:
    """Names of the sources that are not replay."""
    replay = config.data.replay
    return [name for name in config.data.sources if replay is None or name != replay.source]


def length_sentences(asked: RunConfig, *, schedule: ScheduleConfig) -> Iterator[str]:
    """What was asked and what it comes to."""
    wanted = asked.schedule
    if wanted.epochs is not None:
        names = listed(domain(asked))
        yield f"schedule.epochs={wanted.epochs:g} of {names}: {schedule.steps:,} steps"
    if wanted.tokens is not None:
        yield f"schedule.tokens={wanted.tokens:,}: {schedule.steps:,} steps"
    if wanted.warmup_fraction is not None:
        fraction = f"schedule.warmup_fraction={wanted.warmup_fraction:g}"
        yield f"{fraction}: {schedule.warmup_steps:,} steps"


def _steps_of_epochs(
    config: RunConfig, *, segments: Sequence[Segment], epoch_samples: EpochSamples
) -> int:
    names = domain(config)

    def epochs_a_step(segment: Segment) -> Fraction:
        share = sum((segment.shares.get(name, Fraction(0)) for name in names), Fraction(0))
        held = sum(epoch_samples(name, segment.sequence_length) for name in names)
        return share * segment.global_batch_size / max(held, 1)

    return step_at(segments, amount=exact(config.schedule.epochs or 0), a_step=epochs_a_step)
