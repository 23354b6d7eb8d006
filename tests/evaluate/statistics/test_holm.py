# SPDX-License-Identifier: Apache-2.0
"""Holm's adjusted p-values, by hand and by simulation."""

from __future__ import annotations

import numpy as np

from megacpt.evaluate.statistics.holm import holm


def test_the_smallest_counts_most_and_none_falls_below_the_one_before() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == {"a": 0.06, "b": 0.03, "c": 0.06}


def test_one_suite_needs_no_correction_and_no_p_value_exceeds_one() -> None:
    assert holm({"a": 0.04}) == {"a": 0.04}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_where_nothing_differs_some_suite_does_at_most_once_in_twenty() -> None:
    generator = np.random.default_rng(1)
    uniform = generator.random((4_000, 8))
    wrong = sum(min(holm(dict(enumerate(row))).values()) <= 0.05 for row in uniform)  # type: ignore[arg-type]
    # 3 standard errors of a share of 4,000 are 1 %.
    assert 0.04 <= wrong / 4_000 <= 0.06
