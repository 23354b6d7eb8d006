# SPDX-License-Identifier: Apache-2.0
"""Items are paired by id, and other items are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacpt.errors import CheckpointError
from megacpt.evaluate.items import Item
from megacpt.evaluate.statistics.pairing import Flip, flips, pair
from tests.evaluate.statistics.suites import scores

BASE = scores(np.array([0.0, 1.0, 1.0, 0.0]), clusters=np.array([0, 0, 1, 1]))
CANDIDATE = scores(np.array([1.0, 1.0, 0.0, 0.0]), clusters=np.array([0, 0, 1, 1]))


def test_differences_are_summed_by_cluster() -> None:
    pairs = pair(BASE, candidate=replace(CANDIDATE, items=CANDIDATE.items[::-1]))
    assert pairs.difference_N.tolist() == [1, 0, -1, 0]
    assert pairs.sum_G.tolist() == [1, -1]
    assert pairs.size_G.tolist() == [2, 2]
    assert (pairs.estimate, pairs.span) == (0, 1)
    assert pairs.is_right_or_wrong
    assert pairs.is_clustered


def test_flips_are_those_whose_score_changed_losses_first() -> None:
    assert flips(BASE, candidate=CANDIDATE) == (
        Flip(id="000002", cluster="1", base=1.0, candidate=0.0),
        Flip(id="000000", cluster="0", base=0.0, candidate=1.0),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "code"}, "suite law and code are not compared"),
        ({"metric": "f1"}, "metric acc and f1 are not compared"),
        ({"items": CANDIDATE.items[1:]}, r"same items in the same clusters \(000000 is the first"),
        (
            {"items": (Item(id="000000", cluster="9", score=1.0), *CANDIDATE.items[1:])},
            r"\(000000 is the first",
        ),
    ],
)
def test_what_is_not_comparable_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        pair(BASE, candidate=replace(CANDIDATE, **changes))  # type: ignore[arg-type]


def test_one_item_is_no_suite() -> None:
    one = scores(np.array([1.0]))
    with pytest.raises(CheckpointError, match="law has 1 items; a difference takes 2"):
        pair(one, candidate=one)
