# SPDX-License-Identifier: Apache-2.0
"""Bands and rows for a threshold: exact numbers, all other choices, and pairs that are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megacpt._C import Sketcher
from megacpt.curate.deduplicate.curve import (
    HALF_ALIKE,
    PERMUTATIONS_A_PAIR,
    PERMUTATIONS_MAX,
    Curve,
    choose_curve,
    promised,
)
from megacpt.curate.deduplicate.settings import NearConfig
from megacpt.errors import ConfigError
from tests.csrc.test_sketch import pair


@pytest.mark.parametrize(
    ("threshold", "recall", "bands", "rows"),
    [(0.8, 0.97, 14, 9), (0.5, 0.97, 37, 4), (0.9, 0.97, 4, 10), (1.0, 0.97, 1, 13)],
)
def test_bands_and_rows_of_a_threshold(
    threshold: float, recall: float, bands: int, rows: int
) -> None:
    chosen = choose_curve(NearConfig(threshold=threshold, recall=recall))
    assert (chosen.bands, chosen.rows) == (bands, rows)


def test_the_curve_in_numbers() -> None:
    curve = Curve(bands=14, rows=9)
    assert curve.permutations == 126
    assert curve.probability(0.0) == 0.0
    assert curve.probability(1.0) == 1.0
    assert curve.probability(0.5) == pytest.approx(1 - (511 / 512) ** 14, abs=1e-15)
    table = curve.table()
    assert [similarity for similarity, _ in table] == [n / 20 for n in range(1, 21)]
    assert [f"{p:.4f}" for s, p in table if s in (0.4, 0.8, 0.85, 0.9)] == [
        *("0.0037", "0.8670", "0.9750", "0.9990")
    ]


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5, 0.7, 0.8, 0.93, 1.0])
def test_no_other_choice_that_keeps_the_promise_is_cheaper(threshold: float, recall: float) -> None:
    def cost(bands: int, rows: int) -> float:
        in_vain = 1 - (1 - (threshold / 2) ** rows) ** bands
        return bands * rows + PERMUTATIONS_A_PAIR * HALF_ALIKE * in_vain

    similarity = promised(threshold)
    every = [
        (bands, rows)
        for rows in range(1, PERMUTATIONS_MAX + 1)
        for bands in range(1, PERMUTATIONS_MAX // rows + 1)
        if 1 - (1 - similarity**rows) ** bands >= recall
    ]
    chosen = choose_curve(NearConfig(threshold=threshold, recall=recall))
    assert (chosen.bands, chosen.rows) in every
    assert cost(chosen.bands, chosen.rows) == pytest.approx(min(cost(*each) for each in every))


def test_where_recall_is_promised() -> None:
    found = [promised(threshold) for threshold in (0.5, 0.9, 0.94, 1.0)]
    assert found == pytest.approx([0.55, 0.95, 0.97, 1.0])


def test_a_recall_that_cannot_be_reached_is_refused_with_one_that_can() -> None:
    message = r"recall=0\.99999999 cannot be reached at threshold=0\.001 with 256"
    with pytest.raises(ConfigError, match=message) as caught:
        choose_curve(NearConfig(threshold=0.001, recall=0.99999999))
    highest = float(str(caught.value).split("; use ")[1].split(" ")[0])
    choose_curve(NearConfig(threshold=0.001, recall=highest))


@pytest.mark.parametrize(
    ("common", "own"),
    [(100, 50), (120, 20), (136, 12), (144, 8)],
    ids=["0.5", "0.75", "0.85", "0.9"],
)
def test_pairs_are_found_as_often_as_the_curve_says(common: int, own: int) -> None:
    """Of texts whose shingles are known, with the bands that are really made."""
    curve = choose_curve(NearConfig())
    found = 0
    tries = 600
    for seed in range(tries):
        sketcher = Sketcher(words=1, bands=curve.bands, rows=curve.rows, seed=seed % 20)
        one, other = sketcher.sketch(
            list(pair(common=common, own=own, seed=seed)), normalised=False, shingles=False
        ).bands
        found += bool(np.any(one == other))
    expected = curve.probability(common / (common + 2 * own))
    spread = math.sqrt(expected * (1 - expected) / tries)
    assert abs(found / tries - expected) < 4 * spread + 1 / tries
