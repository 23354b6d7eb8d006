# SPDX-License-Identifier: Apache-2.0
"""The learning rate of each step: linear warmup, then a cosine to a fraction of the peak."""

from __future__ import annotations

import math

from megacpt.config.sections import OptimConfig, ScheduleConfig


def learning_rate(step: int, *, optim: OptimConfig, schedule: ScheduleConfig) -> float:
    """Rate used by ``step``, counted from 1; the last step uses exactly the final fraction.

    Step 1 of a warmup of W steps uses 1/W of the peak, step W the peak.
    """
    if step <= schedule.warmup_steps:
        return optim.lr_peak * (step / schedule.warmup_steps)
    decay_steps = schedule.steps - schedule.warmup_steps
    progress = min((step - schedule.warmup_steps) / decay_steps, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    final = schedule.lr_final_fraction
    return optim.lr_peak * (final + (1.0 - final) * cosine)
