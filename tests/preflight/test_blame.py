# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.preflight.blame import (
    Pair,
    blamed,
    expand_hosts,
    is_common,
    odd_ones,
    rounds,
    skews,
    slow_pairs,
)


@given(st.integers(1, 40))
def test_rounds_hold_every_pair_once_and_a_node_once_a_round(num_nodes: int) -> None:
    played = rounds(num_nodes)
    pairs = [pair for pairs in played for pair in pairs]
    assert sorted(pairs) == list(combinations(range(num_nodes), 2))
    for together in played:
        busy = [node for pair in together for node in pair]
        assert len(busy) == len(set(busy)) >= num_nodes - 1


@given(st.integers(3, 12), st.data())
def test_the_slow_nodes_are_blamed_and_no_others(num_nodes: int, data: st.DataObject) -> None:
    most = (num_nodes - 1) // 2
    bad = data.draw(st.sets(st.integers(0, num_nodes - 1), max_size=most))
    rates: dict[Pair, float] = {
        pair: 30.0 if bad & set(pair) else data.draw(st.floats(80.0, 120.0))
        for pair in combinations(range(num_nodes), 2)
    }
    slow = slow_pairs(rates, fraction=0.5, least=0.0)
    assert set(slow) == {pair for pair in rates if bad & set(pair)}
    assert set(blamed(slow, measured=rates)) == bad


def test_one_slow_pair_of_many_blames_no_node() -> None:
    rates: dict[Pair, float] = dict.fromkeys(combinations(range(4), 2), 100.0)
    slow = slow_pairs(rates | {(1, 2): 10.0}, fraction=0.5, least=0.0)
    assert slow == {(1, 2): 50.0}
    assert blamed(slow, measured=rates) == []


def test_two_nodes_have_nothing_to_be_compared_with() -> None:
    assert slow_pairs({(0, 1): 1.0}, fraction=0.5, least=0.0) == {}
    slow = slow_pairs({(0, 1): 1.0}, fraction=0.5, least=10.0)
    assert slow == {(0, 1): 10.0}
    assert blamed(slow, measured=[(0, 1)]) == [1]


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


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu1", ["gpu1"]),
        ("gpu[07-09,12],cpu1", ["gpu07", "gpu08", "gpu09", "gpu12", "cpu1"]),
        ("r[1-2]n[9-10]-ib", ["r1n9-ib", "r1n10-ib", "r2n9-ib", "r2n10-ib"]),
        ("", []),
    ],
)
def test_expand_hosts(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts
