# SPDX-License-Identifier: Apache-2.0
"""Who meets whom; the exchange itself is in test_preflight.py."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from megacpt.preflight.links import _own_pair, rounds
from megacpt.preflight.verdict import Node


@given(st.integers(1, 40))
def test_rounds_hold_every_pair_once_and_a_node_once_a_round(num_nodes: int) -> None:
    played = rounds(num_nodes)
    pairs = [pair for pairs in played for pair in pairs]
    assert sorted(pairs) == list(combinations(range(num_nodes), 2))
    for together in played:
        busy = [node for pair in together for node in pair]
        assert len(busy) == len(set(busy)) >= num_nodes - 1


def test_ranks_meet_those_of_the_same_local_number() -> None:
    nodes = [
        Node(host=f"n{i}", leader=ranks[0], ranks=ranks, address="a", port=1)
        for i, ranks in enumerate([[0, 1], [2, 3], [4, 5, 6]])
    ]
    for pairs in rounds(3):
        met = {rank: _own_pair(nodes, pairs=pairs, rank=rank, width=2) for rank in range(7)}
        assert met[6] is None  # the smallest nodes have two ranks
        meetings = {rank: meeting[1] for rank, meeting in met.items() if meeting is not None}
        assert len(meetings) == 4
        for rank, peer in meetings.items():
            assert meetings[peer] == rank
            assert rank % 2 == peer % 2
