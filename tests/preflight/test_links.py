# SPDX-License-Identifier: Apache-2.0
"""Who meets whom; the exchange itself is in test_train_preflight.py."""

from __future__ import annotations

from megacpt.preflight.blame import rounds
from megacpt.preflight.links import _own_pair
from megacpt.preflight.verdict import Node


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
