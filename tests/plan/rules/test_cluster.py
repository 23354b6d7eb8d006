# SPDX-License-Identifier: Apache-2.0
"""What the settings of a Slurm job exclude, each with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.config.sections import ClusterConfig, ParallelConfig, RunConfig, SlurmConfig
from megacpt.plan.check import violations
from megacpt.plan.rules.cluster import RULES, seconds, tasks_per_node
from tests.plan.test_check import broken


def of_job(**slurm: Any) -> list[str]:
    config = RunConfig(cluster=ClusterConfig(slurm=SlurmConfig(**slurm)))
    return broken(RULES, config=config)


def of_machines(*, parallel: dict[str, int], **cluster: Any) -> list[str]:
    config = RunConfig(cluster=ClusterConfig(**cluster), parallel=ParallelConfig(**parallel))
    return broken(RULES, config=config, launched=True)


def test_the_defaults_keep_every_rule() -> None:
    assert of_job() == []
    assert of_machines(parallel={}) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("1:00:05", 3605),
        ("2-0", 172_800),
        ("1-12:30", 131_400),
        ("1-00:00:01", 86_401),
        ("two hours", None),
        ("1:2:3:4", None),
        ("", None),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, expected: int | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"time": "soon"}, "cluster.slurm.time=soon is no time limit of a minute or more"),
        ({"time": "0:30"}, "cluster.slurm.time=0:30 is no time limit"),
        ({"time": "5"}, "cluster.slurm.signal_seconds=300 comes as soon as a job of 5 has begun"),
        ({"signal_seconds": -1}, "cluster.slurm.signal_seconds=-1 is below 0"),
        ({"cpus_per_task": 0}, "cluster.slurm.cpus_per_task=0 is below 1"),
        ({"spare_nodes": -1}, "cluster.slurm.spare_nodes=-1 is below 0"),
        (
            {"max_restarts_without_progress": -1},
            "cluster.slurm.max_restarts_without_progress=-1 is below 0",
        ),
        ({"partition": "a b"}, "cluster.slurm.partition=a b is empty or has spaces"),
        ({"account": ""}, "cluster.slurm.account='' is empty"),
        ({"qos": "$(rm)"}, "cluster.slurm.qos=$(rm) is empty or has spaces, quotes or other"),
        ({"array": "1-4"}, "cluster.slurm.array=1-4 may run several jobs of one run at once"),
        ({"array": "1-4%2"}, "cluster.slurm.array=1-4%2 may run several"),
        ({"array": "1-4%1", "chain": True}, "cluster.slurm.chain=true and an array are two ways"),
        (
            {"dependency": "afterok:1?afterok:2"},
            "cluster.slurm.dependency=afterok:1?afterok:2 means either",
        ),
        ({"container_mounts": "/data:/data"}, "cluster.slurm.container_mounts=/data:/data has no"),
    ],
)
def test_what_is_excluded(changes: dict[str, Any], start: str) -> None:
    (text,) = of_job(**changes)
    assert text.startswith(start)
    assert "; " in text


def test_machines_must_hold_the_layout() -> None:
    assert of_machines(parallel={"tp": 8, "dp": 4}, nodes=4) == []
    assert of_machines(parallel={"tp": 8, "dp": 4}, nodes=4, gpus_per_node=8) == []
    assert of_machines(parallel={"tp": 2, "dp": 3}, nodes=4) == [
        "cluster.nodes=4 does not divide the 6 ranks of the layout (tp * cp * pp * dp); "
        "use 1, 2, 3 or 6, or another parallel.dp"
    ]
    assert of_machines(parallel={"tp": 8}, nodes=4, gpus_per_node=8) == [
        "cluster.gpus_per_node=8 on cluster.nodes=4 makes 32 ranks, but the layout has 8 "
        "(tp * cp * pp * dp); use parallel.dp=4, or other machines"
    ]
    assert of_machines(parallel={"tp": 8, "pp": 3}, nodes=4, gpus_per_node=8) == [
        "cluster.gpus_per_node=8 on cluster.nodes=4 makes 32 ranks, but the layout has 24 "
        "(tp * cp * pp * dp); use a multiple of the 24 ranks of a replica (tp * cp * pp)"
    ]


def test_machines_are_no_rule_of_a_local_run() -> None:
    config = RunConfig(cluster=ClusterConfig(nodes=3), parallel=ParallelConfig(dp=2))
    assert not [v for v in violations(config) if v.path == "cluster.nodes"]
    assert [v for v in violations(config, launched=True) if v.path == "cluster.nodes"]


def test_ranks_of_a_node_follow_from_the_layout() -> None:
    parallel = ParallelConfig(tp=8, dp=4)
    for cluster in (ClusterConfig(nodes=4), ClusterConfig(nodes=4, gpus_per_node=8)):
        assert tasks_per_node(RunConfig(cluster=cluster, parallel=parallel)) == 8
