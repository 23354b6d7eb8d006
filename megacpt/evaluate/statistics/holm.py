# SPDX-License-Identifier: Apache-2.0
"""Holm's correction: of many suites, one differs by chance alone."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Name -> adjusted p-value (Holm, 1979): rejecting those at most alpha makes one or more wrong
    rejections with a chance of at most alpha, whatever their dependence."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
