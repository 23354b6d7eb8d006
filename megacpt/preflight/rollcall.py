# SPDX-License-Identifier: Apache-2.0
"""Which ranks are there, and what they tell each other through the store: no process group yet.

The first rank collects and decides; one rank of each node (local number 0) reports on it; the
others wait for the first one's verdict. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from megacpt.device.environment import RankInfo, node_name
from megacpt.errors import BadNode, EnvironmentError_
from megacpt.preflight.verdict import Node

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

POLL_S = 0.02
HEARD_WITHIN_S = 10.0
SLACK_S = 10.0
"""The first rank gives up so much earlier than those that wait for it."""
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
    store.set(f"preflight/rank/{presence.rank}", json.dumps(asdict(presence)))
    store.add(_ARRIVED, 1)


def wait_for_all(store: Store, *, world_size: int, limit_s: float) -> list[Presence]:
    """Those that have appeared in time, in the order of the ranks."""
    deadline_s = time.monotonic() + limit_s
    while store.add(_ARRIVED, 0) < world_size and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    keys = [f"preflight/rank/{rank}" for rank in range(world_size)]
    return [Presence(**json.loads(store.get(key))) for key in keys if store.check([key])]


def absent(present: list[Presence], *, world_size: int, hosts: list[str]) -> list[str]:
    """Hosts of which some rank has not appeared; where ``hosts`` is empty, a rank's number."""
    seen = {p.rank for p in present}
    counts = Counter(p.host for p in present)
    unseen = [host for host in hosts if host not in counts]
    if unseen or len(seen) == world_size:
        return unseen
    partial = [host for host, count in counts.items() if count < max(counts.values())]
    lost = [rank for rank in range(world_size) if rank not in seen]
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


def say_verdict(
    store: Store, *, topic: str, ranks: RankInfo, problem: BadNode | EnvironmentError_ | None
) -> None:
    """Tell all ranks, as the first one; raises the problem, once they have heard it."""
    if problem is None:
        say(store, topic=f"verdict/{topic}", tree=None)
        return
    say(store, topic=f"verdict/{topic}", tree=[isinstance(problem, BadNode), str(problem)])
    _let_all_hear(store, topic=topic, ranks=ranks)
    raise problem


def obey_verdict(
    store: Store, *, topic: str, ranks: RankInfo, limit_s: float, must_hear: bool = True
) -> None:
    """Raise the problem the first rank has found, or that nothing was heard of it in time."""
    heard = hear_all(store, topics=[f"verdict/{topic}"], limit_s=limit_s)
    if not heard and must_hear:
        raise BadNode(
            f"{node_name()} (rank {ranks.rank}) has heard nothing of the first rank's preflight "
            f"({topic}); see that rank's log."
        )
    tree = heard.get(f"verdict/{topic}")
    if tree is not None:
        _let_all_hear(store, topic=topic, ranks=ranks)
        is_node, text = tree
        raise BadNode(text) if is_node else EnvironmentError_(text)


def _let_all_hear(store: Store, *, topic: str, ranks: RankInfo) -> None:
    """The first rank, which may keep the store, stays until all have heard its verdict."""
    key = f"preflight/heard/{topic}"
    with contextlib.suppress(dist.DistError):
        store.add(key, 1)
        deadline_s = time.monotonic() + HEARD_WITHIN_S
        while ranks.rank == 0 and time.monotonic() < deadline_s:
            if store.add(key, 0) >= ranks.world_size:
                return
            time.sleep(POLL_S)
