# SPDX-License-Identifier: Apache-2.0
"""Steps of a length in epochs or tokens, against counting, and against transformers' own count."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from megacpt.config.sections import (
    DataConfig,
    ReplayConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    StageConfig,
)
from megacpt.plan.run_length import length_sentences, with_steps
from megacpt.plan.segments import at, resolve, samples_per_epoch

TOKENS = {"law": 10_001, "web": 3_000, "old": 7_777}


def run_of(schedule: ScheduleConfig, *names: str, **data: Any) -> RunConfig:
    sources = {name: SourceConfig(prefix=name, weight=n + 1) for n, name in enumerate(names)}
    config = DataConfig(sources=sources, sequence_length=64, global_batch_size=6, **data)
    return RunConfig(data=config, schedule=schedule)


def samples(name: str, length: int) -> int:
    return samples_per_epoch(TOKENS[name], sequence_length=length, chunk_length=128)


def steps_of(config: RunConfig) -> int:
    segments = resolve(config.data)
    return with_steps(
        config.schedule, data=config.data, segments=segments, epoch_samples=samples
    ).steps


def counted_steps(config: RunConfig, *, epochs: float) -> int:
    """Step after step, until the domain is drawn often enough."""
    segments, done, steps = resolve(config.data), Fraction(0), 0
    replay = config.data.replay.source if config.data.replay else None
    while done < Fraction(repr(epochs)):
        segment = at(segments, step=steps)
        domain = [name for name in config.data.sources if name != replay]
        drawn = sum(segment.shares.get(name, 0) for name in domain) * segment.global_batch_size
        done += Fraction(drawn) / sum(samples(n, segment.sequence_length) for n in domain)
        steps += 1
    return steps


STAGES = {
    "long": StageConfig(from_step=20, sequence_length=128, global_batch_size=3),
    "big": StageConfig(from_tokens=40_000, replay_share=0.5),
}


@pytest.mark.parametrize("epochs", [0.01, 0.5, 1.0, 1.7, 3.0])
@pytest.mark.parametrize(
    "data",
    [
        {"names": ["law"]},
        {"names": ["law", "web"]},
        {"names": ["law", "web", "old"], "replay": ReplayConfig(source="old", share=0.25)},
        {
            "names": ["law", "old"],
            "replay": ReplayConfig(source="old", share=0.2),
            "stages": STAGES,
        },
    ],
)
def test_epochs_are_the_fewest_steps_that_draw_them(epochs: float, data: dict[str, Any]) -> None:
    data = dict(data)
    config = run_of(ScheduleConfig(epochs=epochs), *data.pop("names"), **data)
    assert steps_of(config) == counted_steps(config, epochs=epochs)


@pytest.mark.parametrize("epochs", [1.0, 2.0, 3.0])
def test_whole_epochs_of_one_source_are_as_many_steps_as_transformers_would_take(
    epochs: float,
) -> None:
    """Trainer: ceil(epochs * updates an epoch), where a last update that is not full counts."""
    config = run_of(ScheduleConfig(epochs=epochs), "law")
    one_epoch = math.ceil(samples("law", 64) / 6)
    assert abs(steps_of(config) - math.ceil(epochs * one_epoch)) <= epochs


@pytest.mark.parametrize("tokens", [1, 384, 385, 7_680, 40_000, 100_000])
def test_tokens_end_with_the_step_that_reaches_them(tokens: int) -> None:
    config = run_of(
        ScheduleConfig(tokens=tokens),
        "law",
        "old",
        replay=ReplayConfig(source="old", share=0.2),
        stages=STAGES,
    )
    segments, done, steps = resolve(config.data), 0, 0
    while done < tokens:
        done += at(segments, step=steps).tokens_per_step
        steps += 1
    assert steps_of(config) == steps


@pytest.mark.parametrize(
    ("fraction", "steps", "warmup"), [(0.03, 100, 3), (0.03, 101, 4), (0.1, 7, 1), (0.0, 9, 0)]
)
def test_warmup_is_rounded_up_as_in_transformers(fraction: float, steps: int, warmup: int) -> None:
    schedule = ScheduleConfig(steps=steps, warmup_fraction=fraction)
    config = run_of(schedule, "law")
    resolved = with_steps(
        config.schedule,
        data=config.data,
        segments=resolve(config.data),
        epoch_samples=samples,
    )
    assert (resolved.steps, resolved.warmup_steps) == (steps, warmup)
    assert not resolved.is_open
    assert warmup == math.ceil(steps * fraction)


def test_what_is_asked_is_said_with_what_it_comes_to() -> None:
    asked = run_of(ScheduleConfig(epochs=2, warmup_fraction=0.1), "law", "web")
    schedule = replace(asked.schedule, steps=1_234, warmup_steps=124)
    assert list(length_sentences(asked.schedule, data=asked.data, schedule=schedule)) == [
        "schedule.epochs=2 of law and web: 1,234 steps",
        "schedule.warmup_fraction=0.1: 124 steps",
    ]
    assert not list(length_sentences(ScheduleConfig(), data=asked.data, schedule=schedule))
