# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from megacpt.preflight.outliers import (
    Pair,
    is_common,
    nodes_of_bad_pairs,
    odd_ones,
    skews,
    slow_pairs,
)


@given(st.integers(3, 12), st.data())
def test_the_slow_nodes_are_found_and_no_others(num_nodes: int, data: st.DataObject) -> None:
    most = (num_nodes - 1) // 2
    bad = data.draw(st.sets(st.integers(0, num_nodes - 1), max_size=most))
    rates: dict[Pair, float] = {
        pair: 30.0 if bad & set(pair) else data.draw(st.floats(80.0, 120.0))
        for pair in combinations(range(num_nodes), 2)
    }
    slow = slow_pairs(rates, fraction=0.5, least=0.0)
    assert set(slow) == {pair for pair in rates if bad & set(pair)}
    assert set(nodes_of_bad_pairs(slow, measured=rates)) == bad


def test_one_slow_pair_of_many_is_no_nodes_fault() -> None:
    rates: dict[Pair, float] = dict.fromkeys(combinations(range(4), 2), 100.0)
    slow = slow_pairs(rates | {(1, 2): 10.0}, fraction=0.5, least=0.0)
    assert slow == {(1, 2): 50.0}
    assert nodes_of_bad_pairs(slow, measured=rates) == []


def test_two_nodes_have_nothing_to_be_compared_with() -> None:
    assert slow_pairs({(0, 1): 1.0}, fraction=0.5, least=0.0) == {}
    slow = slow_pairs({(0, 1): 1.0}, fraction=0.5, least=10.0)
    assert slow == {(0, 1): 10.0}
    assert nodes_of_bad_pairs(slow, measured=[(0, 1)]) == [1]


def test_odd_ones() -> None:
    assert odd_ones({0: "a", 1: "b", 2: "b"}).values == {0: "a"}
    tied = odd_ones({0: "a", 1: "b"})
    assert (tied.usual, tied.values) == ("a", {1: "b"})


def test_what_more_than_half_share_is_common() -> None:
    assert not is_common(1, num_nodes=2)
    assert is_common(2, num_nodes=3)
    assert is_common(1, num_nodes=1)


def test_skews() -> None:
    assert skews({0: 0.0, 1: 100.0}) == {0: 0.0, 1: 100.0}
    assert skews({0: 0.0, 1: -100.0, 2: -100.0}) == {0: 100.0, 1: 0.0, 2: 0.0}
