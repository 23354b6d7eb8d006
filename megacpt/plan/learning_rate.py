# SPDX-License-Identifier: Apache-2.0
"""The learning rate of each step: linear warmup, then one of five shapes. Pure functions.

Steps count from 1. With W steps of warmup, step W uses exactly the peak; of a shape that decays to
``lr_final_fraction``, the last step uses exactly that fraction of it. ``wsd`` (warmup, stable,
decay) falls in its last steps as 1 - sqrt(x): the better of the cooldowns compared by Hägele et
al., section 3 (https://arxiv.org/abs/2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import AdapterConfig, LrShape, OptimConfig, ScheduleConfig
from megacpt.plan.optimizers import OPTIMIZERS

FINAL_FRACTION = 0.1
"""Final fraction of the shapes that decay if ``lr_final_fraction`` is not set."""
DECAYING = (LrShape.cosine, LrShape.linear, LrShape.wsd)


def learning_rate(step: int, *, optim: OptimConfig, schedule: ScheduleConfig) -> float:
    """Rate used by ``step``, counted from 1, of a group without a multiplier of its own."""
    return optim.lr_peak * fraction_of_peak(step, schedule=schedule)


def fraction_of_peak(step: int, *, schedule: ScheduleConfig) -> float:
    if step <= schedule.warmup_steps:
        start = schedule.lr_start_fraction
        # Written so that the last step of warmup gives exactly 1.
        return 1.0 - (1.0 - start) * (schedule.warmup_steps - step) / schedule.warmup_steps
    if schedule.shape is LrShape.constant:
        return 1.0
    if schedule.shape is LrShape.inverse_sqrt:
        return math.sqrt(max(schedule.warmup_steps, 1) / step)
    final = final_fraction(schedule)
    return final + (1.0 - final) * _left(_progress(step, schedule=schedule), shape=schedule.shape)


def final_fraction(schedule: ScheduleConfig) -> float:
    """Fraction of the peak at which a shape that decays ends."""
    return FINAL_FRACTION if schedule.lr_final_fraction is None else schedule.lr_final_fraction


def decay_start(schedule: ScheduleConfig) -> int:
    """The last step before the rate falls."""
    if schedule.shape is LrShape.wsd:
        return schedule.steps - schedule.decay_steps
    return schedule.steps if schedule.shape is LrShape.constant else schedule.warmup_steps


def _progress(step: int, *, schedule: ScheduleConfig) -> float:
    """From 0 at the last step before the decay to 1 at the last of all, and after it."""
    start = decay_start(schedule)
    return min(max(step - start, 0) / (schedule.steps - start), 1.0)


def _left(progress: float, *, shape: LrShape) -> float:
    """How much of the way from peak to final fraction is still to go: from 1 to 0."""
    if shape is LrShape.cosine:
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - (math.sqrt(progress) if shape is LrShape.wsd else progress)


def describe(schedule: ScheduleConfig) -> str:
    """The schedule in a few words, for reports."""
    warmup = f"{schedule.warmup_steps} warmup steps"
    if schedule.lr_start_fraction:
        warmup += f" from {schedule.lr_start_fraction:g} of it"
    shape = schedule.shape.name
    if schedule.shape is LrShape.wsd:
        shape = f"stable, in the last {schedule.decay_steps} steps 1 - sqrt"
    if schedule.shape in DECAYING:
        shape += f" to {final_fraction(schedule):g} of it"
    return f"{warmup}, {shape}"


def shown_steps(schedule: ScheduleConfig) -> list[int]:
    """Steps at which the shape turns: first, end of warmup, middle, last before decay, last."""
    steps = schedule.steps
    wanted = {1, schedule.warmup_steps, -(-steps // 2), decay_start(schedule), steps}
    return sorted(step for step in wanted if 1 <= step <= steps)


def group_multipliers(
    optim: OptimConfig, *, adapter: AdapterConfig | None = None
) -> dict[str, float]:
    """Group -> multiplier on the rate, of those that differ from the others."""
    groups = {
        "adapter_B": adapter.b_lr_multiplier if adapter else 1.0,
        "embedding": optim.embedding_lr_multiplier,
        "head": optim.head_lr_multiplier,
        optim.optimizer.value: OPTIMIZERS[optim.optimizer].matrix_lr_multiplier(optim),
    }
    return {name: multiplier for name, multiplier in groups.items() if multiplier != 1.0}


def rate_table(
    *, optim: OptimConfig, schedule: ScheduleConfig, adapter: AdapterConfig | None = None
) -> Iterator[str]:
    """Tab-separated: a header, then every step's rate and each group's own."""
    groups = group_multipliers(optim, adapter=adapter)
    yield "\t".join(["step", "lr", *(f"lr_{name}" for name in groups)])
    for step in range(1, schedule.steps + 1):
        rate = learning_rate(step, optim=optim, schedule=schedule)
        rates = [rate, *(rate * multiplier for multiplier in groups.values())]
        yield "\t".join([str(step), *(f"{value:.9g}" for value in rates)])


def first_difference(
    old: tuple[OptimConfig, ScheduleConfig], *, new: tuple[OptimConfig, ScheduleConfig], steps: int
) -> int | None:
    """The first of the ``steps`` done at which the new settings would have used another rate."""
    for step in range(1, steps + 1):
        was = learning_rate(step, optim=old[0], schedule=old[1])
        if learning_rate(step, optim=new[0], schedule=new[1]) != was:
            return step
    return None
