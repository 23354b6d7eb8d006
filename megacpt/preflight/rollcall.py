# SPDX-License-Identifier: Apache-2.0
"""Who is there, and what each node reports, through the store alone: no process group exists yet.

The first rank collects and speaks; one rank of each node (local number 0) looks and reports; the
others wait for what the first one says. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from megacpt.device.environment import RankInfo
from megacpt.preflight.blame import expand_hosts
from megacpt.preflight.verdict import Node

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

POLL_S = 0.02
SLACK_S = 10.0
"""The first rank gives up so much earlier than those that wait for its word."""
LOST = "Connection closed by peer: the first rank, which keeps the store, has gone"
_ARRIVED = "preflight/arrived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a rank says of itself. ``port``: where its node answers; 0 where another rank does."""

    rank: int
    local_rank: int
    host: str
    address: str
    port: int


def announce(store: Store, *, presence: Presence) -> None:
    row = [presence.rank, presence.local_rank, presence.host, presence.address, presence.port]
    store.set(f"preflight/rank/{presence.rank}", json.dumps(row))
    store.add(_ARRIVED, 1)


def wait_for_all(store: Store, *, world_size: int, limit_s: float) -> list[Presence]:
    """Those that have appeared in time, in the order of the ranks."""
    deadline_s = time.monotonic() + limit_s
    while store.add(_ARRIVED, 0) < world_size and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    keys = [f"preflight/rank/{rank}" for rank in range(world_size)]
    there = [key for key in keys if store.check([key])]
    return [_presence(*json.loads(store.get(key))) for key in there]


def _presence(rank: int, local_rank: int, host: str, address: str, port: int) -> Presence:
    return Presence(rank=rank, local_rank=local_rank, host=host, address=address, port=port)


def absent(present: list[Presence], *, ranks: RankInfo, slurm_hosts: str) -> list[str]:
    """Hosts of which no rank, or not every rank, has appeared; without Slurm the ranks' numbers."""
    seen = {p.rank for p in present}
    hosts = expand_hosts(slurm_hosts)
    unseen = [host for host in hosts if host not in {p.host for p in present}]
    if unseen or len(seen) == ranks.world_size:
        return unseen
    counts = {p.host: sum(q.host == p.host for q in present) for p in present}
    partial = [host for host, count in counts.items() if count < max(counts.values())]
    lost = [rank for rank in range(ranks.world_size) if rank not in seen]
    return partial or [f"the node of rank {lost[0]}"]


def nodes_of(present: list[Presence]) -> list[Node]:
    """Two nodes of one name (a test on one machine) are told apart by their leaders."""
    leaders = sorted((p for p in present if p.local_rank == 0), key=lambda p: p.rank)
    members: dict[int, list[Presence]] = {leader.rank: [] for leader in leaders}
    for p in present:
        same = [leader.rank for leader in leaders if leader.host == p.host]
        members[max((r for r in same if r <= p.rank), default=same[0])].append(p)
    return [
        Node(
            host=leader.host,
            leader=leader.rank,
            ranks=[p.rank for p in sorted(members[leader.rank], key=lambda p: p.local_rank)],
            address=leader.address,
            port=leader.port,
        )
        for leader in leaders
    ]


def say(store: Store, *, topic: str, tree: Any) -> None:
    store.set(f"preflight/{topic}", json.dumps(tree))


def hear_all(store: Store, *, topics: list[str], limit_s: float) -> dict[str, Any]:
    """What was said in time, by topic. ConnectionResetError where the store has gone."""
    deadline_s = time.monotonic() + limit_s
    keys = {topic: f"preflight/{topic}" for topic in topics}
    found: dict[str, Any] = {}
    while True:
        try:
            here = [t for t, key in keys.items() if t not in found and store.check([key])]
            found |= {topic: json.loads(store.get(keys[topic])) for topic in here}
        except dist.DistError as error:
            raise ConnectionResetError(f"{LOST}: {error}") from error
        if len(found) == len(keys) or time.monotonic() >= deadline_s:
            return found
        time.sleep(POLL_S)


def let_all_hear(store: Store, *, topic: str, ranks: RankInfo, limit_s: float) -> None:
    """The first rank, which may keep the store, stays until all have heard its last word."""
    key = f"preflight/heard/{topic}"
    with contextlib.suppress(dist.DistError):
        store.add(key, 1)
        deadline_s = time.monotonic() + limit_s
        while ranks.rank == 0 and time.monotonic() < deadline_s:
            if store.add(key, 0) >= ranks.world_size:
                return
            time.sleep(POLL_S)
