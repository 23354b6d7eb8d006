# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch.distributed as dist

from megacpt.preflight.rollcall import (
    Presence,
    absent,
    announce,
    hear_all,
    nodes_of,
    say,
    wait_for_all,
)
from megacpt.train.rank import LOST_PEER
from tests.support import free_port


def presence(rank: int, *, local_rank: int, host: str) -> Presence:
    return Presence(rank=rank, local_rank=local_rank, host=host, address="a", port=rank + 1)


def dealt(places: str) -> list[Presence]:
    """``a0 a1 b0``: host and local rank of each rank."""
    words = places.split()
    return [presence(r, local_rank=int(w[1]), host=w[0]) for r, w in enumerate(words)]


@pytest.mark.parametrize(
    ("places", "ranks"),
    [
        ("a0 a1 b0 b1", [[0, 1], [2, 3]]),
        ("a0 b0 a1 b1", [[0, 2], [1, 3]]),
        ("a1 a0 b1 b0", [[1, 0], [3, 2]]),
        ("a0 a0 a0", [[0], [1], [2]]),
        ("a0 a1 a0 a1", [[0, 1], [2, 3]]),
    ],
)
def test_ranks_belong_to_nodes(places: str, ranks: list[list[int]]) -> None:
    assert [node.ranks for node in nodes_of(dealt(places))] == ranks


@pytest.mark.parametrize(
    ("places", "world", "hosts", "missing"),
    [
        ("a0 a1 b0 b1", 6, ["a", "b", "c"], ["c"]),
        ("a0 a1 b0", 4, ["a", "b"], ["b"]),
        ("a0 a1 b0 b1", 4, ["a", "b"], []),
        ("a0 a1", 4, [], ["the node of rank 2"]),
    ],
)
def test_absent(places: str, world: int, hosts: list[str], missing: list[str]) -> None:
    assert absent(dealt(places), world_size=world, hosts=hosts) == missing


def test_what_is_said_is_heard_until_the_store_has_gone() -> None:
    port = free_port()
    first = dist.TCPStore("127.0.0.1", port, 2, is_master=True, wait_for_workers=False)
    second = dist.TCPStore("127.0.0.1", port, 2, is_master=False)
    own = presence(1, local_rank=0, host="b")
    announce(second, presence=own)
    assert wait_for_all(first, world_size=2, limit_s=0.1) == [own]
    say(first, topic="topic", tree={"a": [1, None]})
    heard = hear_all(second, topics=["topic", "other"], limit_s=0.0)
    assert heard == {"topic": {"a": [1, None]}}
    del first
    with pytest.raises(ConnectionResetError, match="has gone") as gone:
        hear_all(second, topics=["other"], limit_s=5.0)
    assert any(words in str(gone.value) for words in LOST_PEER)
