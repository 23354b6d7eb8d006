# SPDX-License-Identifier: Apache-2.0
"""A process as a rank on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment


@contextmanager
def rank_on_cpu(
    ranks: RankInfo | None = None, *, timeout_minutes: float = 2.0
) -> Iterator[runtime.Runtime]:
    """The rank that the environment names, if none is given."""
    ranks = ranks or rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(
        device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=timeout_minutes
    )
    started = runtime.start(ranks, cluster=cluster)
    try:
        yield started
    finally:
        runtime.stop()
