# SPDX-License-Identifier: Apache-2.0
"""How fast each pair of nodes is, all pairs of a round at once, before training needs them.

A rank exchanges one buffer with the rank of the same local number on the other node: an all-reduce
of two is this exchange and one addition, so its rate is the pair's all-reduce bandwidth, and no
group has to be made for each pair. Rounds begin together by the store, since a collective would
wait for ever on the rank whose link is stuck.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from megacpt.device.runtime import synchronize
from megacpt.preflight.outliers import Pair
from megacpt.preflight.verdict import Node

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

GPU_MESSAGE_BYTES = 2**26
CPU_MESSAGE_BYTES = 2**22
REPEATS = 3
POLL_S = 0.001
GO, STOP = "go", "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """``rates``: MiB/s of the pairs that were measured, of ``num_pairs``."""

    rates: dict[Pair, float]
    num_pairs: int


class LinkStuck(Exception):
    """An exchange has not ended in time."""


def measure(
    nodes: Sequence[Node], *, rank: int, store: Store, device: torch.device, limit_s: float
) -> Links | None:
    """The first rank gets what all have found; every rank must call."""
    meetings = rounds(len(nodes))
    width = min(len(node.ranks) for node in nodes)
    deadline_s = time.monotonic() + limit_s
    own: dict[Pair, float] = {}
    for number, pairs in enumerate(meetings):
        if not _begin_round(store, number=number, deadline_s=deadline_s):
            break
        meeting = _own_pair(nodes, pairs=pairs, rank=rank, width=width)
        if meeting is not None:
            pair, peer = meeting
            own[pair] = _rate(peer, device=device, deadline_s=deadline_s)
            if own[pair] == 0.0:
                # A link that is stuck has spoilt the group for this rank: all stop here.
                store.set(_go_key(number + 1), STOP)
                break
    return _collect(store, own=own, rank=rank, meetings=meetings)


def rounds(num_nodes: int) -> list[list[Pair]]:
    """All pairs, each once, in rounds in which no node has two: one sits, the others walk round.

    See https://en.wikipedia.org/wiki/Round-robin_tournament#Circle_method
    """
    seats: list[int | None] = [*range(num_nodes), *([None] if num_nodes % 2 else [])]
    played = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        facing = zip(seats[:half], reversed(seats[half:]), strict=True)
        played.append(
            [(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None]
        )
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return played


def _own_pair(
    nodes: Sequence[Node], *, pairs: Sequence[Pair], rank: int, width: int
) -> tuple[Pair, int] | None:
    """The pair of nodes this rank takes part in, and the rank it meets."""
    for pair in pairs:
        mine, theirs = (nodes[node].ranks[:width] for node in pair)
        for own, other in ((mine, theirs), (theirs, mine)):
            if rank in own:
                return pair, other[own.index(rank)]
    return None


def _begin_round(store: Store, *, number: int, deadline_s: float) -> bool:
    """Wait for all ranks; the last one says whether there is time for this round."""
    key = _go_key(number)
    left_s = deadline_s - time.monotonic()
    if store.add(f"preflight/round/{number}", 1) == dist.get_world_size():
        store.set(key, GO if left_s > 0 else STOP)
    try:
        store.wait([key], timedelta(seconds=max(left_s, 1.0)))
    except dist.DistError:
        return False
    return bool(store.get(key) == GO.encode())


def _go_key(number: int) -> str:
    return f"preflight/go/{number}"


def _rate(peer: int, *, device: torch.device, deadline_s: float) -> float:
    """MiB/s of the best of a few exchanges; 0 where one did not end in time."""
    num_bytes = CPU_MESSAGE_BYTES if device.type == "cpu" else GPU_MESSAGE_BYTES
    small, large = (torch.zeros(n, dtype=torch.uint8, device=device) for n in (1, num_bytes))
    try:
        # The first one connects, and makes both begin together.
        _exchange(small, peer=peer, deadline_s=deadline_s)
        best_s = min(_exchange(large, peer=peer, deadline_s=deadline_s) for _ in range(REPEATS))
    except (LinkStuck, RuntimeError):
        # gloo and NCCL raise RuntimeError where a connection breaks or time runs out.
        return 0.0
    return num_bytes / best_s / 2**20


def _exchange(buffer: torch.Tensor, *, peer: int, deadline_s: float) -> float:
    """Seconds until both have what the other had."""
    other = torch.empty_like(buffer)
    started_s = time.perf_counter()
    works = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, buffer, peer), dist.P2POp(dist.irecv, other, peer)]
    )
    for work in works:
        _finish(work, on_cpu=buffer.device.type == "cpu", deadline_s=deadline_s)
    synchronize(buffer.device)
    return time.perf_counter() - started_s


def _finish(work: dist.Work, *, on_cpu: bool, deadline_s: float) -> None:
    """gloo's work learns of its end only by waiting; NCCL's wait would not give up in time."""
    if on_cpu:
        work.wait(timedelta(seconds=max(deadline_s - time.monotonic(), 0.1)))
        return
    while not work.is_completed():
        if time.monotonic() > deadline_s:
            raise LinkStuck
        time.sleep(POLL_S)


def _collect(
    store: Store, *, own: dict[Pair, float], rank: int, meetings: Sequence[Sequence[Pair]]
) -> Links | None:
    """A pair's rate: of all its ranks together, each by the mean of its two ends."""
    rows = [[*pair, rate] for pair, rate in own.items()]
    store.set(f"preflight/rates/{rank}", json.dumps(rows))
    if rank > 0:
        return None
    world = dist.get_world_size()
    keys = [f"preflight/rates/{r}" for r in range(world)]
    store.wait(keys, timedelta(seconds=30))
    ends: dict[Pair, list[float]] = {}
    for row in (row for key in keys for row in json.loads(store.get(key))):
        ends.setdefault((row[0], row[1]), []).append(row[2])
    # Both ends of an exchange are in the list.
    rates = {pair: 0.0 if min(found) == 0 else sum(found) / 2 for pair, found in ends.items()}
    return Links(rates=rates, num_pairs=sum(len(pairs) for pairs in meetings))
