# SPDX-License-Identifier: Apache-2.0
"""What the settings of faults exclude, and when silence is a hang."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import FaultPolicy, RunConfig
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule

LONGEST_WINDOW_STEPS = 1024
"""The threshold looks at the slopes of all pairs of steps: half a million here, 10 ms."""
EARLIER = 0.9
"""Part of the collectives' timeout: the stacks must be written before they give up."""


def hang_minutes(config: RunConfig) -> float:
    """How long a rank may show no sign of life."""
    return config.faults.hang_minutes or EARLIER * config.cluster.timeout_minutes


def _faults(facts: Facts) -> Iterator[Violation]:
    faults, timeout_minutes = facts.config.faults, facts.config.cluster.timeout_minutes
    if faults.spike_window_steps > LONGEST_WINDOW_STEPS:
        yield Violation(
            path="faults.spike_window_steps",
            value=faults.spike_window_steps,
            rule=f"is above {LONGEST_WINDOW_STEPS}, which would slow every step down",
            remedy="64 to 256 is usual",
        )
    if faults.nonfinite is FaultPolicy.ignore:
        yield Violation(
            path="faults.nonfinite",
            value="ignore",
            rule="would train on with weights that are no numbers any more",
            remedy="use stop, skip or rollback",
        )
    if faults.spike_min_steps > faults.spike_window_steps:
        yield Violation(
            path="faults.spike_min_steps",
            value=faults.spike_min_steps,
            rule=f"is more than spike_window_steps={faults.spike_window_steps} ever holds, so no "
            "step would be called a spike",
            remedy=f"use {faults.spike_window_steps} or fewer, or faults.spike=ignore",
        )
    if faults.hang_minutes >= timeout_minutes > 0:
        yield Violation(
            path="faults.hang_minutes",
            value=faults.hang_minutes,
            rule=f"is not less than cluster.timeout_minutes={timeout_minutes}: the "
            "collectives would give up before any stack is written",
            remedy="use less, or 0 for nine tenths of it",
        )


RULES: tuple[Rule, ...] = (_faults,)
