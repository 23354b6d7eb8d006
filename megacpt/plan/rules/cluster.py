# SPDX-License-Identifier: Apache-2.0
"""What the settings of a Slurm job exclude: of the section itself, and against the layout."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megacpt.config.sections import RunConfig, SlurmConfig
from megacpt.errors import Violation
from megacpt.text import one_of

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_ONE_AFTER_THE_OTHER = re.compile(r"\d+(-\d+)?%1|\d+")
WORDS = (
    *("partition", "account", "qos", "reservation", "constraint", "dependency", "time", "mem"),
    *("container_image", "container_mounts", "python"),
)
"""Settings that become one word of an ``#SBATCH`` line or a command."""
CHECK_S = 30
"""Slurm looks at time limits so often: the signal comes up to this much early."""


def seconds(time: str) -> int | None:
    """``D-H:M:S``, ``H:M:S``, ``M:S`` or minutes, as sbatch reads them; None if it is none."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, secs = [*parts, 0, 0][:3]
        return int(days) * 86_400 + hours * 3600 + minutes * 60 + secs
    if len(parts) == 1:
        return parts[0] * 60
    hours, minutes, secs = [*([0] * (3 - len(parts))), *parts]
    return hours * 3600 + minutes * 60 + secs


def tasks_per_node(config: RunConfig) -> int:
    """Ranks of each node, one a GPU; rounded down where ``cluster.nodes`` does not divide them."""
    return config.cluster.gpus_per_node or max(
        config.parallel.num_ranks // max(config.cluster.nodes, 1), 1
    )


def slurm_violations(config: RunConfig) -> Iterator[Violation]:
    """Of ``cluster.slurm`` by itself; it holds for any run, launched or not."""
    slurm = config.cluster.slurm
    yield from _numbers(config)
    yield from _words(slurm)
    yield from _times(slurm)
    yield from _successors(slurm)
    if slurm.container_mounts and not slurm.container_image:
        yield Violation(
            path="cluster.slurm.container_mounts",
            value=slurm.container_mounts,
            rule="has no container to be mounted in",
            remedy="set cluster.slurm.container_image, or leave it out",
        )


def launch_violations(config: RunConfig) -> Iterator[Violation]:
    """The machines asked for against the ranks of the layout: of a run that Slurm will start."""
    cluster, num_ranks = config.cluster, config.parallel.num_ranks
    if cluster.nodes < 1:
        return
    if cluster.gpus_per_node is None and num_ranks % cluster.nodes:
        yield Violation(
            path="cluster.nodes",
            value=cluster.nodes,
            rule=f"does not divide the {num_ranks} ranks of the layout (tp * cp * pp * dp)",
            remedy=f"use {_divisors_in_words(num_ranks)}, or another parallel.dp",
        )
    elif cluster.gpus_per_node and cluster.nodes * cluster.gpus_per_node != num_ranks:
        found = cluster.nodes * cluster.gpus_per_node
        yield Violation(
            path="cluster.gpus_per_node",
            value=cluster.gpus_per_node,
            rule=f"on cluster.nodes={cluster.nodes} makes {found} ranks, but the layout has "
            f"{num_ranks} (tp * cp * pp * dp)",
            remedy=_layout_remedy(config, found=found),
        )


def _layout_remedy(config: RunConfig, *, found: int) -> str:
    p = config.parallel
    replica = p.tp * p.cp * p.pp
    if found % replica == 0:
        return f"use parallel.dp={found // replica}, or other machines"
    return f"use a multiple of the {replica} ranks of a replica (tp * cp * pp)"


def _divisors_in_words(number: int) -> str:
    return one_of(n for n in range(1, number + 1) if number % n == 0)


def _numbers(config: RunConfig) -> Iterator[Violation]:
    cluster, slurm = config.cluster, config.cluster.slurm
    least = {
        "cluster.nodes": (cluster.nodes, 1),
        "cluster.gpus_per_node": (cluster.gpus_per_node, 1),
        "cluster.slurm.cpus_per_task": (slurm.cpus_per_task, 1),
        "cluster.slurm.signal_seconds": (slurm.signal_seconds, 0),
        "cluster.slurm.max_restarts_without_progress": (slurm.max_restarts_without_progress, 0),
        "cluster.slurm.spare_nodes": (slurm.spare_nodes, 0),
    }
    for path, (value, lowest) in least.items():
        if value is not None and value < lowest:
            yield Violation(
                path=path, value=value, rule=f"is below {lowest}", remedy=f"use {lowest} or more"
            )


def _words(slurm: SlurmConfig) -> Iterator[Violation]:
    for name in WORDS:
        value = getattr(slurm, name)
        if value is not None and (not value or re.search(r"[\s'\"\\$`;]", value)):
            yield Violation(
                path=f"cluster.slurm.{name}",
                value=value or "''",
                rule="is empty or has spaces, quotes or other signs of the shell",
                remedy="write it as sbatch takes it, in one word, or null to leave it out",
            )


def _times(slurm: SlurmConfig) -> Iterator[Violation]:
    limit_s = seconds(slurm.time)
    if limit_s is None or limit_s < 60:
        yield Violation(
            path="cluster.slurm.time",
            value=slurm.time,
            rule="is no time limit of a minute or more",
            remedy="write minutes, H:M:S or D-H:M:S, as 24:00:00",
        )
    elif slurm.signal_seconds + CHECK_S >= limit_s:
        yield Violation(
            path="cluster.slurm.signal_seconds",
            value=slurm.signal_seconds,
            rule=f"comes as soon as a job of {slurm.time} has begun, as Slurm sends the signal up "
            f"to {CHECK_S} s early",
            remedy=f"use less than {max(limit_s - CHECK_S, 1)}, or a longer cluster.slurm.time",
        )


def _successors(slurm: SlurmConfig) -> Iterator[Violation]:
    """Jobs of one run must come one after the other."""
    if slurm.array is not None and not _ONE_AFTER_THE_OTHER.fullmatch(slurm.array):
        yield Violation(
            path="cluster.slurm.array",
            value=slurm.array,
            rule="may run several jobs of one run at once",
            remedy="use a range of which one runs at a time, as 1-5%1",
        )
    if slurm.dependency is not None and "?" in slurm.dependency:
        yield Violation(
            path="cluster.slurm.dependency",
            value=slurm.dependency,
            rule="means either, and a job of a run must also wait for the one before",
            remedy="separate them by commas, which mean both",
        )
    if slurm.array is not None and slurm.chain:
        yield Violation(
            path="cluster.slurm.chain",
            value="true",
            rule="and an array are two ways to have a next job",
            remedy="use one of them: cluster.slurm.array=null, or chain=false",
        )
