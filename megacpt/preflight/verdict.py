# SPDX-License-Identifier: Apache-2.0
"""Nodes that cannot take part, found from the reports of all nodes, each with its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megacpt.config.sections import PreflightConfig
from megacpt.preflight.checks import CheckResult, Mark, check_address, check_node, fail, warn
from megacpt.preflight.facts import NodeFacts, facts_from_json
from megacpt.preflight.network import ClockReading
from megacpt.preflight.outliers import (
    Pair,
    is_common,
    nodes_of_bad_pairs,
    odd_ones,
    skews,
    slow_pairs,
)

CLOCK_WARN_S = 1.0
NodeResult = tuple[int, CheckResult]
"""A node's number in the run, and a check of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the run. ``leader``: its rank with the local number 0."""

    host: str
    leader: int
    ranks: list[int]
    """Sorted by their local numbers."""
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node has found out about itself and about its way to the others."""

    facts: NodeFacts
    settings: str
    """Digest of the configuration its ranks were given."""
    sees_folder: bool
    unreached: dict[int, str] = field(default_factory=dict)
    """Node -> why it could not be reached."""
    first_clock: ClockReading | None = None
    """Clock of the first node, as seen from here."""


def report_from_json(tree: dict[str, Any]) -> NodeReport:
    clock = tree["first_clock"]
    return NodeReport(
        facts=facts_from_json(tree["facts"]),
        settings=tree["settings"],
        sees_folder=tree["sees_folder"],
        unreached={int(node): why for node, why in tree["unreached"].items()},
        first_clock=ClockReading(**clock) if clock is not None else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerdict:
    """``bad``: host -> reasons, most certain first. ``common``: what more than half share."""

    results: list[tuple[str, CheckResult]]
    """Each with its host."""
    bad: dict[str, list[str]]
    common: list[str]

    @property
    def warnings(self) -> list[str]:
        return [sentence(h, result=r) for h, r in self.results if r.mark is Mark.warn]

    @property
    def faults(self) -> list[str]:
        return [*(why for reasons in self.bad.values() for why in reasons), *self.common]


def sentence(host: str, *, result: CheckResult) -> str:
    limit = f" (wanted: {result.limit})" if result.limit else ""
    return f"{host}: {result.check}: {result.value}{limit}; {result.remedy}"


def judge_nodes(
    nodes: Sequence[Node],
    *,
    reports: Mapping[int, NodeReport],
    limits: PreflightConfig,
    on_gpu: bool,
) -> NodeVerdict:
    """``reports``: by the node's number; one that is missing did not come in time."""
    results = [
        *_silent(nodes, reports=reports, limits=limits),
        *_unreached(nodes, reports=reports),
        *_each(nodes, reports=reports, limits=limits, on_gpu=on_gpu),
        *_odd_versions(reports),
        *_odd_ports(reports),
        *_clocks(reports, limits=limits),
        *_folders(reports),
    ]
    return _verdict(results, nodes=nodes)


def judge_links(
    nodes: Sequence[Node], *, rates: Mapping[Pair, float], limits: PreflightConfig
) -> NodeVerdict:
    """``rates``: MiB/s of each pair that was measured; 0 where it got stuck."""
    slow = slow_pairs(rates, fraction=limits.link_fraction, least=max(limits.link_mib_s, 1e-9))
    guilty = nodes_of_bad_pairs(slow, measured=rates)
    results: list[NodeResult] = []
    for (a, b), limit in slow.items():
        node, other = (b, a) if b in guilty or a not in guilty else (a, b)
        result = (fail if node in guilty or rates[a, b] == 0 else warn)(
            "link",
            value=f"{rates[a, b]:,.1f} MiB/s to {nodes[other].host}",
            limit=f"at least {limit:,.1f} MiB/s",
            remedy="look at its cable, port and switch, and at the interface that is used",
        )
        results.append((node, result))
    order = {node: place for place, node in enumerate(guilty)}
    results.sort(key=lambda result: order.get(result[0], len(order)))
    return _verdict(results, nodes=nodes)


def judge_absent(
    hosts: Sequence[str], *, first: str, num_nodes: int, appear_s: float
) -> NodeVerdict:
    """No rank of ``hosts`` has appeared. Where most are missing, the way to the first node is the
    likelier fault, and no host is accused."""
    result = fail(
        "start",
        value=f"no rank has appeared at {first} within {appear_s:g} s",
        remedy="look at the node, at its way to the first one (firewall, interface), and whether "
        "python starts there; cluster.preflight.appear_s gives more time",
    )
    results = [(host, result) for host in hosts]
    reasons = {host: [sentence(host, result=result)] for host in hosts}
    others = max(num_nodes - 1, len(hosts))
    if is_common(len(hosts), num_nodes=others) and others > 1:
        common = [why for own in reasons.values() for why in own]
        return NodeVerdict(results=results, bad={}, common=common)
    return NodeVerdict(results=results, bad=reasons, common=[])


def _verdict(results: Sequence[NodeResult], *, nodes: Sequence[Node]) -> NodeVerdict:
    failed = [(node, result) for node, result in results if result.mark is Mark.fail]
    failing: dict[str, set[int]] = {}
    for node, result in failed:
        failing.setdefault(result.check, set()).add(node)
    bad: dict[str, list[str]] = {}
    common: list[str] = []
    for node, result in failed:
        why = sentence(nodes[node].host, result=result)
        if not result.own and is_common(len(failing[result.check]), num_nodes=len(nodes)):
            common.append(why)
        else:
            bad.setdefault(nodes[node].host, []).append(why)
    named = [(nodes[node].host, result) for node, result in results]
    return NodeVerdict(results=named, bad=bad, common=common)


def _silent(
    nodes: Sequence[Node], *, reports: Mapping[int, NodeReport], limits: PreflightConfig
) -> Iterator[NodeResult]:
    value = f"no facts within {limits.limit_s:g} s"
    remedy = "look at that node: its mount of the run folder, or nvidia-smi, may hang"
    for node in range(len(nodes)):
        if node not in reports:
            yield node, fail("facts", value=value, remedy=remedy)


def _unreached(nodes: Sequence[Node], *, reports: Mapping[int, NodeReport]) -> Iterator[NodeResult]:
    why: dict[Pair, tuple[int, int, str]] = {}
    for a, report in sorted(reports.items()):
        for b, reason in report.unreached.items():
            why.setdefault((min(a, b), max(a, b)), (a, b, reason))
    there = sorted(reports)
    guilty = nodes_of_bad_pairs(why, measured=[(a, b) for a in there for b in there if a < b])
    for (low, high), (a, b, reason) in why.items():
        # Somebody has to be left out: of two that are equally suspect the later one.
        node = next((n for n in guilty if n in (low, high)), high)
        yield (
            node,
            fail(
                "reach",
                value=f"{nodes[a].host} cannot reach {nodes[b].host}: {reason}",
                remedy="look at routes and firewalls between them, and at the interface that is "
                "used",
            ),
        )


def _each(
    nodes: Sequence[Node],
    *,
    reports: Mapping[int, NodeReport],
    limits: PreflightConfig,
    on_gpu: bool,
) -> Iterator[NodeResult]:
    several = len({report.facts.machine for report in reports.values()}) > 1
    for node, report in reports.items():
        facts, num_ranks = report.facts, len(nodes[node].ranks)
        for result in check_node(facts, limits=limits, num_ranks=num_ranks, on_gpu=on_gpu):
            yield node, result
        if not on_gpu and several:
            yield node, check_address(facts.address, interface=facts.interface, several=True)


def _odd_versions(reports: Mapping[int, NodeReport]) -> Iterator[NodeResult]:
    has = {n: {**r.facts.versions, "settings": r.settings} for n, r in reports.items()}
    remedy = "give all nodes the same files: one image, or one folder all see"
    for name in dict.fromkeys(name for own in has.values() for name in own):
        odd = odd_ones({n: own.get(name, "unknown") for n, own in has.items()})
        limit = f"{odd.usual}, as on {len(has) - len(odd.values)} of {len(has)} nodes"
        for node, value in odd.values.items():
            yield node, fail(name, value=value, limit=limit, remedy=remedy)


def _odd_ports(reports: Mapping[int, NodeReport]) -> Iterator[NodeResult]:
    """InfiniBand ports that work on the other nodes and not here."""
    if not reports:
        return
    active = {
        n: str(sum(state.startswith("ACTIVE") for state in report.facts.ports.values()))
        for n, report in reports.items()
    }
    odd = odd_ones(active)
    for node, count in odd.values.items():
        if int(count) < int(odd.usual):
            limit = f"{odd.usual}, as on the other nodes"
            remedy = "look at ibstat, cable and switch port"
            value = f"{count} ports are active"
            yield node, fail("InfiniBand", value=value, limit=limit, remedy=remedy)


def _clocks(reports: Mapping[int, NodeReport], *, limits: PreflightConfig) -> Iterator[NodeResult]:
    clocks = {n: r.first_clock for n, r in reports.items() if r.first_clock is not None}
    # The first node ahead of this one by so much: this one is behind it.
    skew_s = skews({n: -clock.ahead_s for n, clock in clocks.items()}) if clocks else {}
    for node, off_s in skew_s.items():
        certain_s = abs(off_s) - clocks[node].error_s
        if certain_s > min(CLOCK_WARN_S, limits.clock_s):
            value, limit = f"{off_s:+.1f} s off the others", f"within {limits.clock_s:g} s"
            remedy = "synchronise it (chrony or NTP): chronyc tracking"
            marked = fail if certain_s > limits.clock_s else warn
            yield node, marked("clock", value=value, limit=limit, remedy=remedy)


def _folders(reports: Mapping[int, NodeReport]) -> Iterator[NodeResult]:
    remedy = "mount the file system all nodes share; run_dir must lie on it"
    for node, report in reports.items():
        if not report.sees_folder:
            folder = report.facts.disk.folder
            value = f"a file of the first node is not to be seen in {folder}"
            yield node, fail("run folder", value=value, remedy=remedy)
