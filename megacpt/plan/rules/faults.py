# SPDX-License-Identifier: Apache-2.0
"""What the settings of faults and retries exclude, and when silence is a hang."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import FaultPolicy, FaultsConfig, RunConfig
from megacpt.errors import Violation

LONGEST_WINDOW_STEPS = 1024
"""The threshold looks at the slopes of all pairs of steps: half a million here, 10 ms."""
FEWEST_STEPS = 4
"""A line and a spread of fewer values say nothing."""
EARLIER = 0.9
"""Of the collectives' timeout: the stacks must be written before they give up."""


def hang_minutes(config: RunConfig) -> float:
    """How long a rank may show no sign of life."""
    return config.faults.hang_minutes or EARLIER * config.cluster.timeout_minutes


def fault_violations(config: RunConfig) -> Iterator[Violation]:
    """Of the section ``faults`` and of ``cluster.retries``."""
    faults = config.faults
    yield from _numbers(faults)
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
    if faults.hang_minutes >= config.cluster.timeout_minutes > 0:
        yield Violation(
            path="faults.hang_minutes",
            value=faults.hang_minutes,
            rule=f"is not less than cluster.timeout_minutes={config.cluster.timeout_minutes}: the "
            "collectives would give up before any stack is written",
            remedy="use less, or 0 for nine tenths of it",
        )
    if config.cluster.retries < 0:
        yield Violation(
            path="cluster.retries",
            value=config.cluster.retries,
            rule="is below 0",
            remedy="use 0 or more",
        )


def _numbers(faults: FaultsConfig) -> Iterator[Violation]:
    least: dict[str, tuple[float, float]] = {
        "spike_window_steps": (faults.spike_window_steps, FEWEST_STEPS),
        "spike_min_steps": (faults.spike_min_steps, FEWEST_STEPS),
        "rollback_skip_steps": (faults.rollback_skip_steps, 1),
        "max_events": (faults.max_events, 0),
        "excerpt_tokens": (faults.excerpt_tokens, 1),
        "hang_minutes": (faults.hang_minutes, 0),
        "straggler_factor": (faults.straggler_factor, 1),
    }
    for name, (value, lowest) in least.items():
        if not (value >= lowest and math.isfinite(value)):
            yield Violation(
                path=f"faults.{name}",
                value=value,
                rule=f"is below {lowest:g}",
                remedy=f"use {lowest:g} or more",
            )
    if faults.spike_window_steps > LONGEST_WINDOW_STEPS:
        yield Violation(
            path="faults.spike_window_steps",
            value=faults.spike_window_steps,
            rule=f"is above {LONGEST_WINDOW_STEPS}, which would slow every step down",
            remedy="64 to 256 is usual",
        )
    if not (faults.spike_z > 0 and math.isfinite(faults.spike_z)):
        yield Violation(
            path="faults.spike_z",
            value=faults.spike_z,
            rule="is not a positive number",
            remedy="6 to 20 is usual",
        )
    if not 0 < faults.rollback_lr_factor <= 1:
        yield Violation(
            path="faults.rollback_lr_factor",
            value=faults.rollback_lr_factor,
            rule="is outside (0, 1]",
            remedy="1 keeps the rate, 0.5 halves it",
        )
