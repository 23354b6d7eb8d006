# SPDX-License-Identifier: Apache-2.0
"""How large a loss or gradient norm may be, judged by the steps before it. Pure functions.

The values before it are described by a line and the spread around it, both by medians, so that a
few wild ones among them change nothing: the slope is the median of the slopes of all pairs (Theil
1950, Sen 1968), the spread is the median absolute deviation, which times 1.4826 estimates a normal
distribution's standard deviation. The line lets a loss fall and a gradient norm rise through warmup
without the one hiding spikes and the other being taken for one. A curve that falls ever more slowly
soon leaves its line above, so the line is not followed below where the curve has been last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIGMA_PER_MAD = 1.4826
SMALLEST_SPREAD = 0.01
"""Least standard deviation, as a share of the values' median: a curve that hardly moves would make
a spike of every tremor."""
FEWEST_VALUES = 2
LAST_PART = 4
"""A curve's present level is the median of the last fourth of its values, of at least four."""


def spike_threshold(values: Sequence[float], *, z: float) -> float:
    """Limit of the value after ``values``: z standard deviations above their line."""
    assert len(values) >= FEWEST_VALUES, "a line needs two points"
    x = np.asarray(values, dtype=np.float64)
    at = np.arange(x.size, dtype=np.float64)
    earlier, later = np.triu_indices(x.size, k=1)
    slope = np.median((x[later] - x[earlier]) / (at[later] - at[earlier]))
    residuals = x - slope * at
    level = np.median(residuals)
    sigma = SIGMA_PER_MAD * np.median(np.abs(residuals - level))
    sigma = max(float(sigma), SMALLEST_SPREAD * abs(float(np.median(x))))
    last = np.median(x[-max(LAST_PART, x.size // LAST_PART) :])
    return float(max(level + slope * x.size, last) + z * sigma)
