# SPDX-License-Identifier: Apache-2.0
"""McNemar's exact test: of the items that flipped, were as many gained as lost?"""

from __future__ import annotations

import math

from megacpt.evaluate.statistics.pairing import Pairs


def mcnemar_p(pairs: Pairs) -> float:
    """Two-sided p-value for scores of 0 and 1 whose items stand alone."""
    gained = int((pairs.difference_N > 0).sum())
    lost = int((pairs.difference_N < 0).sum())
    return binomial_p(min(gained, lost), trials=gained + lost)


def binomial_p(fewer: int, *, trials: int) -> float:
    """That a fair coin falls so unevenly, or more so; summed by logarithms, for 10,000 trials."""
    logs = [_log_choose(trials, k) - trials * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
