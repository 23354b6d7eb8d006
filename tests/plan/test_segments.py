# SPDX-License-Identifier: Apache-2.0
"""Segments of a run: exact shares, stages in order, the past kept, epochs counted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.sections import (
    DataConfig,
    Packing,
    ReplayConfig,
    SampleOrder,
    SourceConfig,
    StageConfig,
    StageSourceConfig,
)
from megacpt.errors import ConfigError
from megacpt.plan.segments import (
    Segment,
    apportion,
    at,
    durations,
    epoch_cap_violations,
    own,
    resolve,
    samples_asked,
    samples_per_epoch,
    step_at_tokens,
)

SOURCES = {"a": 2.0, "r": 99.0, "b": 1.0}
REPLAY = ReplayConfig(source="r", share=0.1)


def data_of(stages: dict[str, StageConfig] | None = None, **more: Any) -> DataConfig:
    sources = {name: SourceConfig(prefix=name, weight=w) for name, w in SOURCES.items()}
    settings: dict[str, Any] = {"sequence_length": 8, "global_batch_size": 10, "replay": REPLAY}
    return DataConfig(sources=sources, stages=stages or {}, **(settings | more))


def named(*names: str) -> dict[str, StageSourceConfig]:
    return {name: StageSourceConfig() for name in names}


def test_replay_takes_its_share_and_weights_split_the_rest() -> None:
    expected = {"a": Fraction(6, 10), "r": Fraction(1, 10), "b": Fraction(3, 10)}
    shares = resolve(data_of())[0].shares
    assert shares == expected
    assert list(shares) == list(SOURCES)


def test_a_stage_inherits_what_it_does_not_set() -> None:
    stages = {
        "last": StageConfig(from_step=30, replay_share=0.5),
        "only_b": StageConfig(from_step=10, sources=named("b"), sequence_length=4),
        "large": StageConfig(from_step=20, global_batch_size=40),
    }
    start, only_b, large, last = resolve(data_of(stages))
    assert [s.name for s in (start, only_b, large, last)] == ["", "only_b", "large", "last"]
    assert [s.from_step for s in (start, only_b, large, last)] == [0, 10, 20, 30]
    assert only_b.shares == large.shares == {"r": Fraction(1, 10), "b": Fraction(9, 10)}
    assert last.shares == {"r": Fraction(1, 2), "b": Fraction(1, 2)}
    assert [s.sequence_length for s in (start, only_b, large, last)] == [8, 4, 4, 4]
    assert [s.global_batch_size for s in (start, only_b, large, last)] == [10, 10, 40, 40]
    assert at((start, only_b), step=9) == start
    assert at((start, only_b), step=10) == only_b


def test_token_counts_become_steps() -> None:
    """80 tokens a step, 40 from step 5 on: 400 + 40 n >= 500 at step 8."""
    stages = {
        "then": StageConfig(from_tokens=500, sequence_length=2),
        "first": StageConfig(from_tokens=321, sequence_length=4),
    }
    assert [s.from_step for s in resolve(data_of(stages))] == [0, 5, 8]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50)), min_size=1, max_size=5),
    tokens=st.integers(0, 3000),
)
def test_step_at_tokens_is_the_first_that_reaches_them(
    sizes: list[tuple[int, int]], tokens: int
) -> None:
    begin, segments, per_step = 0, list[Segment](), list[int]()
    for steps, size in sizes:
        segments.append(
            Segment(name="", from_step=begin, shares={}, sequence_length=1, global_batch_size=size)
        )
        per_step += [size] * steps
        begin += steps
    step = step_at_tokens(segments, tokens=tokens)
    per_step += [sizes[-1][1]] * max(step - len(per_step), 0)
    assert sum(per_step[:step]) >= tokens
    assert step == 0 or sum(per_step[: step - 1]) < tokens


def test_the_past_is_kept_and_what_is_new_begins_now() -> None:
    old = resolve(data_of())
    new = data_of(global_batch_size=20)
    assert [(s.from_step, s.global_batch_size) for s in resolve(new, past=old, step=7)] == [
        (0, 10),
        (7, 20),
    ]
    again = resolve(new, past=resolve(new, past=old, step=7), step=12)
    assert [(s.from_step, s.global_batch_size) for s in again] == [(0, 10), (7, 20)]
    assert resolve(data_of(), past=old, step=7) == old


def test_what_another_run_drew_lies_before_step_0() -> None:
    """Stages count the steps and tokens of the run itself."""
    other = [replace(segment, from_step=segment.from_step - 7) for segment in resolve(data_of())]
    later = {"x": StageConfig(from_tokens=160, replay_share=0.5)}
    found = resolve(data_of(later), past=other, step=0)
    assert [s.from_step for s in found] == [-7, 2]
    assert [s.from_step for s in own(found)] == [0, 2]
    assert resolve(data_of(later), past=found, step=5) == found
    again = resolve(data_of(later, sequence_length=4), past=other, step=0)
    assert [s.from_step for s in again] == [-7, 0, 4]
    assert [s.from_step for s in own(again)] == [0, 4]


def test_steps_before_a_run_that_begins_late_are_not_compared() -> None:
    begun = resolve(data_of(), step=5)
    assert [s.from_step for s in begun] == [5]
    assert resolve(data_of(), past=begun, step=9) == begun
    assert len(list(durations(begun, steps=9))) == 1


def test_a_stage_that_begins_now_is_not_yet_past() -> None:
    stage = StageConfig(from_step=7, replay_share=0.5)
    undisturbed = resolve(data_of({"more": stage}))
    assert resolve(data_of({"more": stage}), past=undisturbed, step=7) == undisturbed
    assert resolve(data_of({"more": stage}), past=resolve(data_of()), step=7) == undisturbed
    with pytest.raises(ConfigError, match="8 steps are done and past stages may not be edited"):
        resolve(data_of({"more": stage}), past=resolve(data_of()), step=8)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (StageConfig(), "data.stages.x={...} does not say when it begins; set data.stages.x.from_"),
        (StageConfig(from_step=1, from_tokens=2), "says twice when it begins"),
        (StageConfig(from_step=0), "data.stages.x.from_step=0 is below 1; use 1 or more; what"),
        (StageConfig(from_tokens=0), "data.stages.x.from_tokens=0 is below 1"),
        (StageConfig(from_step=1, sequence_length=0), "data.stages.x.sequence_length=0 is below 1"),
        (StageConfig(from_step=1, global_batch_size=0), "global_batch_size=0 is below 1"),
        (
            StageConfig(from_step=1, sequence_length=3),
            "data.stages.x.sequence_length=3 does not divide the 8 tokens that are shuffled as one "
            "piece; use a divisor of 8, or start a run with data.chunk_length=24",
        ),
        (
            StageConfig(from_step=1, sources=named("c")),
            "data.stages.x.sources.c={...} is not among data.sources (a, r, b); "
            "set data.sources.c.prefix=SHARD, or leave it out of the stage",
        ),
        (
            StageConfig(from_step=1, sources=named("r")),
            "data.stages.x.sources.r={...} is the replay source; leave it out: replay is in every "
            "stage; data.stages.x.replay_share sets its share",
        ),
        (
            StageConfig(from_step=1, sources={"a": StageSourceConfig(weight=0.0)}),
            "data.stages.x.sources.a.weight=0.0 is not above 0; use a positive weight, or leave",
        ),
        (
            StageConfig(from_step=1, replay_share=1.0),
            "data.stages.x.replay_share=1.0 is outside (0, 1); 0.05 to 0.2 is usual",
        ),
    ],
)
def test_an_impossible_stage_is_named(stage: StageConfig, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(data_of({"x": stage}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            data_of({"x": StageConfig(from_step=4), "y": StageConfig(from_tokens=320)}),
            "data.stages.y.from_tokens=320 begins the stage at step 4, where stage x does; give",
        ),
        (
            data_of({"x": StageConfig(from_step=4, replay_share=0.2)}, replay=None),
            "data.stages.x.replay_share=0.2 needs a replay source; set data.replay.source and",
        ),
        (
            data_of({"x": StageConfig(from_step=4, sequence_length=4)}, packing=Packing.best_fit),
            "data.stages.x.sequence_length=4 differs from data.sequence_length=8, but best_fit "
            "packs rows of one length; use data.packing=concat, or one length in all stages",
        ),
        (
            data_of(chunk_length=16, packing=Packing.best_fit),
            "data.chunk_length=16 has no meaning with data.packing=best_fit; leave it out",
        ),
        (
            data_of({"x": StageConfig(from_step=4)}, order=SampleOrder.megatron),
            "data.stages=x is not possible with data.order=megatron; use data.order=keyed, or",
        ),
        (
            data_of(packing=Packing.best_fit, order=SampleOrder.megatron),
            "data.packing=best_fit is not possible with data.order=megatron",
        ),
        (data_of(chunk_length=12), "data.sequence_length=8 does not divide the 12 tokens"),
        (data_of(chunk_length=0), "data.chunk_length=0 is below 1; use 1 or more"),
    ],
)
def test_settings_that_exclude_each_other_are_named(data: DataConfig, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(data)
    assert message in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    broken = StageConfig(sources=named("c", "r"), replay_share=2.0)
    with pytest.raises(ConfigError) as caught:
        resolve(data_of({"x": broken, "y": StageConfig(from_step=-1)}))
    assert len(caught.value.violations) == 5


def test_a_source_may_wait_for_its_stage() -> None:
    data = data_of({"x": StageConfig(from_step=4, sources=named("a", "b"))})
    data.sources["b"].weight = 0.0
    start, x = resolve(data)
    assert start.shares == {"a": Fraction(9, 10), "r": Fraction(1, 10)}
    assert x.shares["b"] == Fraction(9, 20)
    data.stages = {"x": StageConfig(from_step=4, sources=named("a"))}
    with pytest.raises(ConfigError, match=r"data.sources.b.weight=0.0 .* or name b in a stage's"):
        resolve(data)
    data = data_of({"x": StageConfig(from_step=4, sources=named("a", "b"))})
    data.sources["a"].weight = data.sources["b"].weight = 0.0
    with pytest.raises(ConfigError, match=r"data.sources=a, b has no source with a weight above 0"):
        resolve(data)


def test_durations_and_samples_stop_with_the_run() -> None:
    stage = StageConfig(from_step=10, sources=named("b"), global_batch_size=20)
    segments = resolve(data_of({"x": stage, "never": StageConfig(from_step=99)}))
    assert [(s.name, n) for s, n in durations(segments, steps=15)] == [("", 10), ("x", 5)]
    assert samples_asked(segments, steps=15) == {"a": 60, "r": 20, "b": 120}


@given(tokens=st.integers(0, 500), parts=st.integers(1, 6), length=st.integers(1, 20))
def test_samples_per_epoch_hold_every_target(tokens: int, parts: int, length: int) -> None:
    chunk = parts * length
    samples = samples_per_epoch(tokens, sequence_length=length, chunk_length=chunk)
    assert 0 <= samples * length - max(tokens - 1, 0) < length


def test_the_epoch_cap_counts_all_stages() -> None:
    """b: 3 samples a step of 8 tokens, then 9 of 4 tokens; an epoch is 25 or 50 of them."""
    data = data_of({"x": StageConfig(from_step=20, sources=named("b"), sequence_length=4)})
    data.sources["b"].max_epochs = 5.0

    def broken(steps: int) -> list[str]:
        found = epoch_cap_violations(
            data,
            segments=resolve(data),
            steps=steps,
            epoch_samples=lambda name, length: samples_per_epoch(
                201, sequence_length=length, chunk_length=8
            ),
        )
        return [str(violation) for violation in found]

    assert broken(34) == []
    assert broken(50) == [
        "data.sources.b.max_epochs=5.0 is exceeded: 50 steps go through b 7.800 times; "
        "use schedule.steps=34 or fewer, a smaller share of b, or more text"
    ]
    data.sources["b"].max_epochs = 0.1
    assert "not even one step fits" in broken(50)[0]


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6), total=st.integers(0, 1000))
def test_apportioned_samples_add_up_and_stay_within_one(weights: list[int], total: int) -> None:
    shares = {str(n): Fraction(w, sum(weights)) for n, w in enumerate(weights)}
    counts = apportion(shares, total=total)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - share * total) < 1 for name, share in shares.items())


def test_replacing_nothing_changes_nothing() -> None:
    assert resolve(replace(data_of(), prefetch_steps=0)) == resolve(data_of())
