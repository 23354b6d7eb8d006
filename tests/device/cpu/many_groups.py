# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_gloo.py: many process groups, of megatron-core and of our own."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.rank import rank_on_cpu

GROUPS, LENGTH = 12, 50_000


def use_them(work: Path, cases: None) -> None:
    """Each rank writes WORK/RANK.json."""
    with rank_on_cpu() as started:
        from megatron.core import parallel_state

        from megacpt.config.sections import ParallelConfig
        from megacpt.device import groups

        groups.initialise_parallel(ParallelConfig(tp=2), seed=1)
        found: dict[str, Any] = {"shared": gloo_threads(), "sums": sums()}
        short = dist.new_group(timeout=timedelta(seconds=7))
        found["devices"] = num_devices([dist.group.WORLD, short, dist.new_group()])
        found["timeout"] = backend(short).options._timeout.total_seconds()
        found["whole"] = backend(dist.group.WORLD).options._timeout.total_seconds()
        parallel_state.destroy_model_parallel()
        del short
        rank = started.ranks.rank
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found["afterwards"] = num_devices([dist.group.WORLD, *(dist.new_group() for _ in range(3))])
    (work / f"{rank}.json").write_text(json.dumps(found))


def watched(work: Path, cases: None) -> None:
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    with rank_on_cpu() as started:
        total = torch.ones(1)
        dist.all_reduce(total, group=dist.new_group())
        assert total == 2
        if started.ranks.rank == 0:
            (work / "watched.json").write_text(json.dumps(gloo_threads()))


def backend(group: Any) -> Any:
    return group._get_backend(torch.device("cpu"))


def num_devices(groups: list[Any]) -> int:
    devices = [backend(group).options._devices[0] for group in groups]
    return len({id(device) for device in devices})


def gloo_threads() -> int:
    """Of those that poll."""
    tasks = Path("/proc/self/task").iterdir()
    return Counter((task / "comm").read_text().strip() for task in tasks)["gloo_tcp_loop"]


def sums() -> list[float]:
    """All groups are at work at once, begun in turn by one rank, in reverse by the other."""
    rank = dist.get_rank()
    made = [dist.new_group() for _ in range(GROUPS)]
    tensors = [torch.full((LENGTH,), float(number + 100 * rank)) for number in range(GROUPS)]
    order = range(GROUPS) if rank == 0 else reversed(range(GROUPS))
    works = [dist.all_reduce(tensors[n], group=made[n], async_op=True) for n in order]
    for work in works:
        work.wait()
    assert all(bool((tensor == tensor[0]).all()) for tensor in tensors)
    return [float(tensor[0]) for tensor in tensors]
