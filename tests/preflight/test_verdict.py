# SPDX-License-Identifier: Apache-2.0
"""Reports of eight nodes, one of them changed: the changed one is named, and only it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import PreflightConfig
from megacpt.preflight.checks import Mark
from megacpt.preflight.facts import Disk, NodeFacts, facts_from_json, gather
from megacpt.preflight.gpus import Gpu, Gpus
from megacpt.preflight.network import ClockReading
from megacpt.preflight.verdict import (
    Node,
    NodeReport,
    NodeVerdict,
    judge_absent,
    judge_links,
    judge_nodes,
    report_from_json,
)

NUM = 8
LIMITS = PreflightConfig()
NODES = [
    Node(host=f"n{i}", leader=8 * i, ranks=list(range(8 * i, 8 * i + 8)), address="a", port=1)
    for i in range(NUM)
]
CARDS = [Gpu(index=i, name="H100", memory_mib=81559, used_mib=4) for i in range(8)]
FACTS = NodeFacts(
    host="n",
    versions={"torch": "2.13.0", "NVIDIA driver": "575"},
    cores=64,
    memory_gib=1000.0,
    shm_free_mib=500_000.0,
    disk=Disk(folder="/run", free_gib=900, written_mib_s=900),
    gpus=Gpus(driver="575", gpus=CARDS),
    ports={"mlx5_0:1": "ACTIVE 400", "mlx5_1:1": "ACTIVE 400"},
    address="10.0.0.1",
)
WELL = NodeReport(
    facts=FACTS,
    settings="abc",
    sees_folder=True,
    first_clock=ClockReading(ahead_s=0.0, error_s=0.001),
)


def verdict(changed: dict[int, NodeReport | None]) -> NodeVerdict:
    reports = {i: changed.get(i, WELL) for i in range(NUM)}
    there = {i: report for i, report in reports.items() if report is not None}
    return judge_nodes(NODES, reports=there, limits=LIMITS, on_gpu=True)


def with_facts(**changes: Any) -> NodeReport:
    return replace(WELL, facts=replace(FACTS, **changes))


SICK = Gpus(driver="575", gpus=[*CARDS[:7], replace(CARDS[7], faults=["2 errors"])])
ODD: dict[str, tuple[NodeReport | None, str]] = {
    "version": (
        with_facts(versions=FACTS.versions | {"torch": "2.12.1"}),
        "n3: torch: 2.12.1 (wanted: 2.13.0, as on 7 of 8 nodes); give all nodes the same files",
    ),
    "settings": (replace(WELL, settings="xyz"), "n3: settings: xyz (wanted: abc"),
    "clock": (
        replace(WELL, first_clock=ClockReading(ahead_s=-60.0, error_s=0.001)),
        "n3: clock: +60.0 s off the others (wanted: within 10 s)",
    ),
    "ports": (
        with_facts(ports={"mlx5_0:1": "ACTIVE 400", "mlx5_1:1": "DOWN 10"}),
        "n3: InfiniBand: 1 ports are active (wanted: 2, as on the other nodes)",
    ),
    "folder": (replace(WELL, sees_folder=False), "n3: run folder: a file of the first node"),
    "disk": (
        with_facts(disk=Disk(folder="/run", problem="No space left on device")),
        "n3: disk: /run cannot be written: No space left on device",
    ),
    "few": (with_facts(gpus=Gpus(driver="575", gpus=CARDS[:7])), "n3: GPUs: 7 GPUs"),
    "sick": (with_facts(gpus=SICK), "n3: GPU 7: 2 errors (wanted: no fault)"),
    "shm": (with_facts(shm_free_mib=64.0), "n3: /dev/shm: 64.0 MiB free (wanted: at least 256"),
    "silent": (None, "n3: facts: no facts within 60 s; look at that node"),
}


def test_all_well() -> None:
    found = verdict({})
    assert not found.faults
    assert found.warnings == []


@pytest.mark.parametrize("name", ODD)
def test_the_odd_node_is_bad(name: str) -> None:
    report, words = ODD[name]
    found = verdict({3: report})
    assert found.faults
    assert list(found.bad) == ["n3"]
    assert found.bad["n3"][0].startswith(words)
    assert found.common == []


def test_what_most_nodes_share_is_no_nodes_fault() -> None:
    full = ODD["disk"][0]
    found = verdict(dict.fromkeys(range(NUM), full))
    assert (found.bad, len(found.common)) == ({}, NUM)


def test_gpus_are_their_nodes_own_fault_however_many() -> None:
    sick = ODD["sick"][0]
    assert len(verdict(dict.fromkeys(range(6), sick)).bad) == 6


def test_a_clock_a_little_off_is_a_warning() -> None:
    report = replace(WELL, first_clock=ClockReading(ahead_s=3.0, error_s=0.5))
    found = verdict({3: report})
    assert not found.faults
    assert found.warnings[0].startswith("n3: clock: -3.0 s off the others")


def test_an_uncertain_clock_is_not_held_against_a_node() -> None:
    report = replace(WELL, first_clock=ClockReading(ahead_s=60.0, error_s=60.0))
    assert not verdict({3: report}).faults


def test_of_nodes_that_cannot_reach_each_other_the_one_in_most_pairs_is_bad() -> None:
    lonely = {i: replace(WELL, unreached={3: "timed out"}) for i in range(NUM) if i != 3}
    found = verdict({**lonely})
    assert list(found.bad) == ["n3"]
    assert "n3: reach: n0 cannot reach n3: timed out" in found.bad["n3"][0]
    assert list(verdict({2: replace(WELL, unreached={5: "refused"})}).bad) == ["n5"]


def test_links() -> None:
    rates = {(a, b): 100.0 for a in range(NUM) for b in range(a + 1, NUM)}
    assert not judge_links(NODES, rates=rates, limits=LIMITS).faults
    slow = {pair: 20.0 if 3 in pair else rate for pair, rate in rates.items()}
    found = judge_links(NODES, rates=slow, limits=LIMITS)
    assert list(found.bad) == ["n3"]
    assert found.bad["n3"][0].startswith("n3: link: 20.0 MiB/s to n0 (wanted: at least 50.0 MiB/s)")
    one = judge_links(NODES, rates=rates | {(2, 5): 20.0}, limits=LIMITS)
    assert not one.faults
    assert one.results[0][1].mark is Mark.warn
    stuck = judge_links(NODES[:2], rates={(0, 1): 0.0}, limits=LIMITS)
    assert list(stuck.bad) == ["n1"]
    all_slow = judge_links(NODES, rates=rates, limits=PreflightConfig(link_mib_s=500.0))
    assert not all_slow.bad
    assert all_slow.common


def test_missing_nodes_are_named_unless_most_are_missing() -> None:
    found = judge_absent(["n3"], first="n0:1", num_nodes=NUM, appear_s=300)
    assert list(found.bad) == ["n3"]
    assert list(judge_absent(["n1"], first="n0:1", num_nodes=2, appear_s=300).bad) == ["n1"]
    most = judge_absent(["n1", "n2", "n3"], first="n0:1", num_nodes=4, appear_s=300)
    assert (most.bad, len(most.common)) == ({}, 3)


def test_a_report_survives_its_journey(tmp_path: Path) -> None:
    facts = gather(tmp_path)
    assert facts_from_json(asdict(facts)) == facts
    report = replace(WELL, unreached={4: "why"})
    tree = asdict(report)
    tree["unreached"] = {"4": "why"}  # JSON's keys are text
    assert report_from_json(tree) == report
    assert report_from_json(asdict(replace(WELL, first_clock=None))).first_clock is None
