# SPDX-License-Identifier: Apache-2.0
"""What the settings of faults exclude, each with what to do instead."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from megacpt.config.sections import ClusterConfig, FaultPolicy, RunConfig
from megacpt.plan.rules.faults import RULES, hang_minutes
from tests.plan.test_check import broken


def found(*, cluster: dict[str, Any] | None = None, **faults: Any) -> list[str]:
    config = RunConfig(cluster=ClusterConfig(**(cluster or {})))
    config.faults = dataclasses.replace(config.faults, **faults)
    return broken(RULES, config=config)


def test_the_defaults_keep_every_rule() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"nonfinite": FaultPolicy.ignore}, "faults.nonfinite=ignore would train on"),
        ({"spike_min_steps": 65}, "faults.spike_min_steps=65 is more than spike_window_steps=64"),
        ({"spike_window_steps": 2000}, "faults.spike_window_steps=2000 is above 1024"),
        ({"spike_min_steps": 3}, "faults.spike_min_steps=3 is below 4"),
        ({"spike_z": 0.0}, "faults.spike_z=0.0 is not a positive number"),
        ({"spike_z": float("nan")}, "faults.spike_z=nan is not a positive number"),
        ({"rollback_lr_factor": 0.0}, "faults.rollback_lr_factor=0.0 is outside (0, 1]"),
        ({"rollback_skip_steps": 0}, "faults.rollback_skip_steps=0 is below 1"),
        ({"max_events": -1}, "faults.max_events=-1 is below 0"),
        ({"excerpt_tokens": 0}, "faults.excerpt_tokens=0 is below 1"),
        ({"straggler_factor": 0.9}, "faults.straggler_factor=0.9 is below 1"),
        ({"hang_minutes": -1.0}, "faults.hang_minutes=-1.0 is below 0"),
        ({"hang_minutes": 10.0}, "faults.hang_minutes=10.0 is not less than cluster.timeout"),
        ({"cluster": {"retries": -1}}, "cluster.retries=-1 is below 0"),
    ],
)
def test_each_rule_names_its_setting(changes: dict[str, Any], start: str) -> None:
    (violation,) = found(**changes)
    assert violation.startswith(start)
    assert "; " in violation


def test_a_hang_is_found_before_the_collectives_give_up() -> None:
    config = RunConfig(cluster=ClusterConfig(timeout_minutes=20.0))
    assert hang_minutes(config) == pytest.approx(18.0)
    config.faults.hang_minutes = 3.0
    assert hang_minutes(config) == 3.0
