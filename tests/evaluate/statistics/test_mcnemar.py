# SPDX-License-Identifier: Apache-2.0
"""McNemar's exact p-values are scipy's binomial ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from megacpt.evaluate.statistics.mcnemar import binomial_p, mcnemar_p
from megacpt.evaluate.statistics.pairing import paired


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (0, 1), (3, 9), (10, 10), (480, 600), (0, 40)]
)
def test_p_values_are_the_binomial_test_s(gained: int, lost: int) -> None:
    change_N = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 7)
    base_N = (change_N < 0).astype(float)
    pairs = paired(base_N, candidate_N=base_N + change_N, cluster_N=np.arange(len(change_N)))
    known = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_p(pairs) == pytest.approx(known, rel=1e-9)


def test_thousands_of_flips_do_not_overflow() -> None:
    assert binomial_p(4_900, trials=10_000) == pytest.approx(
        binomtest(4_900, 10_000).pvalue, rel=1e-8
    )
