# SPDX-License-Identifier: Apache-2.0
"""Decisions about faults as functions of values: what is judged, done and remembered."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.sections import FaultPolicy, FaultsConfig
from megacpt.monitor.metrics import FaultRecord
from megacpt.train.guard.faults import (
    Fault,
    FaultState,
    merged,
    normal,
    read_events,
    stop,
    write_events,
)

CONFIG = FaultsConfig(spike_min_steps=8, spike_window_steps=16)


def good(steps: int, *, stage: str = "") -> FaultState:
    state = FaultState()
    for n in range(steps):
        state.count_good(loss=2.0 + 0.01 * (n % 3), grad_norm=1.0, stage=stage, window=16)
    return state


def judged(state: FaultState, config: FaultsConfig = CONFIG, **values: Any) -> Fault | None:
    return state.judge(**({"loss": 2.0, "grad_norm": 1.0, "stage": ""} | values), config=config)


def decided(
    state: FaultState,
    *,
    step: int,
    kind: str = "nonfinite",
    policy: FaultPolicy = FaultPolicy.rollback,
    restart_step: int = 10,
    nonfinite_samples: int = 1,
    config: FaultsConfig = CONFIG,
) -> FaultRecord:
    """The event, remembered as the run does."""
    fault = Fault(kind=kind, what="loss", value=math.nan, threshold=None, policy=policy)
    event = state.decide(
        fault,
        step=step,
        restart_step=restart_step,
        sources={"law": 4},
        nonfinite_samples=nonfinite_samples,
        samples=[],
        config=config,
    )
    state.events.append(normal(event))
    return event


@pytest.mark.parametrize("what", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_fault_from_the_first_step_on(what: str, value: float) -> None:
    fault = judged(FaultState(), **{what: value})
    assert fault is not None
    assert (fault.kind, fault.what, fault.policy) == ("nonfinite", what, CONFIG.nonfinite)


@pytest.mark.parametrize("what", ["loss", "grad_norm"])
def test_a_spike_is_one_only_after_enough_good_steps(what: str) -> None:
    assert judged(good(7), **{what: 50.0}) is None
    fault = judged(good(8), **{what: 50.0})
    assert fault is not None
    assert (fault.kind, fault.what, fault.policy) == ("spike", what, CONFIG.spike)
    assert judged(good(8)) is None


def test_another_stage_begins_anew() -> None:
    """Its sources have other losses."""
    state = good(16)
    assert judged(state, loss=50.0, stage="law") is None
    state.count_good(loss=50.0, grad_norm=1.0, stage="law", window=16)
    assert state.losses == [50.0]


def test_spikes_may_be_ignored() -> None:
    config = FaultsConfig(spike=FaultPolicy.ignore)
    assert judged(good(40), config, loss=50.0) is None


@given(st.integers(0, 60))
def test_as_many_values_are_kept_as_the_window_holds(steps: int) -> None:
    state = good(steps)
    assert len(state.losses) == len(state.grad_norms) == min(steps, 16)
    assert state.updates == steps


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_a_state_survives_its_checkpoint_bit_for_bit(values: list[float]) -> None:
    state = FaultState(losses=values, grad_norms=values[::-1], skipped_samples={"law": 3})
    decided(state, step=12)
    assert FaultState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("step", "restart_step", "passed"),
    [(20, 10, [17, 18, 19, 20]), (12, 10, [11, 12]), (11, 10, [11]), (3, 0, [1, 2, 3])],
)
def test_a_rollback_passes_over_the_last_steps_since_its_checkpoint(
    step: int, restart_step: int, passed: list[int]
) -> None:
    state = FaultState()
    event = decided(state, step=step, restart_step=restart_step)
    assert event["passed_steps"] == passed
    assert [n for n in range(1, 40) if state.passing(n)] == passed


def test_each_rollback_cuts_the_rate_from_its_checkpoint_on() -> None:
    config = FaultsConfig(rollback_lr_factor=0.5)
    state = FaultState()
    decided(state, step=14, config=config)
    decided(state, step=33, restart_step=30, config=config)
    assert [state.lr_factor(step) for step in (10, 11, 30, 31, 99)] == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_at_the_same_place_again_or_in_all_samples_of_the_next_step_it_is_not_the_samples() -> None:
    for step, nonfinite_samples in ((14, 1), (12, 1), (15, 4)):
        state = FaultState()
        decided(state, step=14)
        event = decided(state, step=step, nonfinite_samples=nonfinite_samples)
        assert event["policy"] == "stop"
        assert "came back after the rollback to step 10" in event["reason"]


def test_more_bad_text_or_another_checkpoint_is_another_rollback() -> None:
    for changes in ({"step": 15}, {"step": 14, "restart_step": 13}):
        state = FaultState()
        decided(state, step=14)
        assert decided(state, **changes)["policy"] == "rollback"  # type: ignore[arg-type]


def test_more_events_than_allowed_end_the_run() -> None:
    state = FaultState()
    steps = [20, 23, 26, 29, 32]
    policies = [decided(state, step=n, policy=FaultPolicy.skip)["policy"] for n in steps]
    assert policies == ["skip"] * 5
    last = decided(state, step=35, policy=FaultPolicy.skip)
    assert last["policy"] == "stop"
    assert last["reason"].startswith("5 faults within 16 steps came before it")


def test_events_long_ago_do_not_count() -> None:
    state = FaultState()
    for step in range(100, 300, 20):
        assert decided(state, step=step, policy=FaultPolicy.skip)["policy"] == "skip"


def test_the_message_of_a_stop_says_what_and_why_and_what_to_do() -> None:
    event = decided(FaultState(), step=7, policy=FaultPolicy.stop)
    error = stop(event, run_dir="runs/a")
    assert error.exit_code == 65
    assert str(error).startswith("step 7: loss nan; its update was not applied and the run ends")
    assert "faults.nonfinite=stop asks for it" in str(error)
    assert "runs/a/faults.jsonl" in str(error)
    assert "set faults.nonfinite=rollback or skip" in str(error)


def test_events_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path, state = tmp_path / "faults.jsonl", FaultState()
    assert read_events(path) == []
    write_events(path, events=[])
    assert not path.exists()
    decided(state, step=14)
    decided(state, step=20, policy=FaultPolicy.skip)
    write_events(path, events=state.events)
    assert read_events(path) == state.events


def test_after_a_restart_rollbacks_stand_and_all_else_happens_again() -> None:
    before, since = FaultState(), FaultState()
    decided(before, step=4, policy=FaultPolicy.skip)
    since.events = list(before.events)
    decided(since, step=12, policy=FaultPolicy.skip)
    rollback = decided(since, step=14)
    assert merged(before.events, written=since.events) == [*before.events, rollback]
    assert merged(since.events, written=since.events) == since.events
