# SPDX-License-Identifier: Apache-2.0
"""From the reports of all nodes to the nodes that cannot take part, each with its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from megacpt.config.sections import PreflightConfig
from megacpt.preflight.blame import (
    Pair,
    blamed,
    is_common,
    odd_ones,
    skews,
    slow_pairs,
)
from megacpt.preflight.checks import Finding, Mark, address_finding, node_findings
from megacpt.preflight.clock import Reading
from megacpt.preflight.facts import NodeFacts, from_json

CLOCK_WARN_S = 1.0
LOOK = "look at that node: its mount of the run folder, or nvidia-smi, may hang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the run. ``leader``: its rank with the local number 0."""

    host: str
    leader: int
    ranks: list[int]
    """By their local numbers."""
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a node has found out about itself and about its way to the others."""

    facts: NodeFacts
    settings: str
    """Digest of the configuration its ranks were given."""
    sees_folder: bool
    unreached: dict[int, str] = field(default_factory=dict)
    """Node -> why it could not be reached."""
    first_clock: Reading | None = None
    """Of the first node, as seen from here."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_from_json(tree: dict[str, Any]) -> Report:
    clock = tree["first_clock"]
    return Report(
        facts=from_json(tree["facts"]),
        settings=tree["settings"],
        sees_folder=tree["sees_folder"],
        unreached={int(node): why for node, why in tree["unreached"].items()},
        first_clock=Reading(**clock) if clock is not None else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFinding:
    """``node``: its number in the run."""

    node: int
    host: str
    finding: Finding

    def __str__(self) -> str:
        f = self.finding
        limit = f" (wanted: {f.limit})" if f.limit else ""
        return f"{self.host}: {f.check}: {f.value}{limit}; {f.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``bad``: host -> reasons, most certain first. ``common``: what more than half share."""

    findings: list[NodeFinding]
    bad: dict[str, list[str]]
    common: list[str]

    @property
    def warnings(self) -> list[str]:
        return [str(f) for f in self.findings if f.finding.mark is Mark.warn]

    @property
    def passes(self) -> bool:
        return not self.bad and not self.common


def judge_nodes(
    nodes: Sequence[Node],
    *,
    reports: Mapping[int, Report],
    limits: PreflightConfig,
    on_gpu: bool,
) -> Verdict:
    """``reports``: by the node's number; one that is missing did not come in time."""
    found = [
        *_silent(nodes, reports=reports, limits=limits),
        *_unreached(nodes, reports=reports),
        *_each(nodes, reports=reports, limits=limits, on_gpu=on_gpu),
        *_odd_versions(nodes, reports=reports),
        *_odd_ports(nodes, reports=reports),
        *_clocks(nodes, reports=reports, limits=limits),
        *_folders(nodes, reports=reports),
    ]
    return _verdict(found, num_nodes=len(nodes))


def judge_links(
    nodes: Sequence[Node], *, rates: Mapping[Pair, float], limits: PreflightConfig
) -> Verdict:
    """``rates``: MiB/s of each pair that was measured; 0 where it got stuck."""
    slow = slow_pairs(rates, fraction=limits.link_fraction, least=max(limits.link_mib_s, 1e-9))
    guilty = blamed(slow, measured=rates)
    found = []
    for (a, b), limit in slow.items():
        node, other = (b, a) if b in guilty or a not in guilty else (a, b)
        is_blamed = node in guilty or rates[a, b] == 0
        finding = Finding(
            check="link",
            mark=Mark.fail if is_blamed else Mark.warn,
            value=f"{rates[a, b]:,.1f} MiB/s to {nodes[other].host}",
            limit=f"at least {limit:,.1f} MiB/s",
            remedy="look at its cable, port and switch, and at the interface that is used",
        )
        found.append(NodeFinding(node=node, host=nodes[node].host, finding=finding))
    order = {node: place for place, node in enumerate(guilty)}
    found.sort(key=lambda f: order.get(f.node, len(order)))
    return _verdict(found, num_nodes=len(nodes))


def missing(hosts: Sequence[str], *, first: str, num_nodes: int, appear_s: float) -> Verdict:
    """Of nodes none of whose ranks has appeared. Where most are missing, the way to the first one
    is the likelier fault, and no host is accused."""
    finding = Finding(
        check="start",
        mark=Mark.fail,
        value=f"no rank has appeared at {first} within {appear_s:g} s",
        remedy="look at the node, at its way to the first one (firewall, interface), and whether "
        "python starts there; cluster.preflight.appear_s gives more time",
    )
    found = [NodeFinding(node=n, host=host, finding=finding) for n, host in enumerate(hosts)]
    others = max(num_nodes - 1, len(hosts))
    if is_common(len(hosts), num_nodes=others) and others > 1:
        return Verdict(findings=found, bad={}, common=[str(f) for f in found])
    return Verdict(findings=found, bad={f.host: [str(f)] for f in found}, common=[])


def _verdict(found: Sequence[NodeFinding], *, num_nodes: int) -> Verdict:
    failed = [f for f in found if f.finding.mark is Mark.fail]
    of_check: dict[str, set[int]] = {}
    for f in failed:
        of_check.setdefault(f.finding.check, set()).add(f.node)
    bad: dict[str, list[str]] = {}
    common: list[str] = []
    for f in failed:
        shared = is_common(len(of_check[f.finding.check]), num_nodes=num_nodes)
        if shared and not f.finding.own:
            common.append(str(f))
        else:
            bad.setdefault(f.host, []).append(str(f))
    return Verdict(findings=list(found), bad=bad, common=common)


def _silent(
    nodes: Sequence[Node], *, reports: Mapping[int, Report], limits: PreflightConfig
) -> Iterator[NodeFinding]:
    for number, node in enumerate(nodes):
        if number not in reports:
            value = f"no facts within {limits.limit_s:g} s"
            finding = Finding(check="facts", mark=Mark.fail, value=value, remedy=LOOK)
            yield NodeFinding(node=number, host=node.host, finding=finding)


def _unreached(nodes: Sequence[Node], *, reports: Mapping[int, Report]) -> Iterator[NodeFinding]:
    why: dict[Pair, tuple[int, int, str]] = {}
    for a, report in sorted(reports.items()):
        for b, reason in report.unreached.items():
            why.setdefault((min(a, b), max(a, b)), (a, b, reason))
    there = sorted(reports)
    guilty = blamed(why, measured=[(a, b) for a in there for b in there if a < b])
    for (low, high), (a, b, reason) in why.items():
        # Somebody has to be left out: of two that are equally suspect the later one.
        node = next((n for n in guilty if n in (low, high)), high)
        finding = Finding(
            check="reach",
            mark=Mark.fail,
            value=f"{nodes[a].host} cannot reach {nodes[b].host}: {reason}",
            remedy="look at routes and firewalls between them, and at the interface that is used",
        )
        yield NodeFinding(node=node, host=nodes[node].host, finding=finding)


def _each(
    nodes: Sequence[Node],
    *,
    reports: Mapping[int, Report],
    limits: PreflightConfig,
    on_gpu: bool,
) -> Iterator[NodeFinding]:
    several = len({report.facts.machine for report in reports.values()}) > 1
    for number, report in reports.items():
        node, facts = nodes[number], report.facts
        num_ranks = len(node.ranks)
        found = node_findings(facts, limits=limits, num_ranks=num_ranks, on_gpu=on_gpu)
        if not on_gpu and several:
            interface = facts.interface
            found.append(address_finding(facts.address, interface=interface, several=True))
        for finding in found:
            yield NodeFinding(node=number, host=node.host, finding=finding)


def _odd_versions(nodes: Sequence[Node], *, reports: Mapping[int, Report]) -> Iterator[NodeFinding]:
    has = {n: {**r.facts.versions, "settings": r.settings} for n, r in reports.items()}
    for name in dict.fromkeys(name for own in has.values() for name in own):
        odd = odd_ones({n: own.get(name, "unknown") for n, own in has.items()})
        num_usual = len(has) - len(odd.values)
        for number, value in odd.values.items():
            finding = Finding(
                check=name,
                mark=Mark.fail,
                value=value,
                limit=f"{odd.usual}, as on {num_usual} of {len(has)} nodes",
                remedy="give all nodes the same files: one image, or one folder all see",
            )
            yield NodeFinding(node=number, host=nodes[number].host, finding=finding)


def _odd_ports(nodes: Sequence[Node], *, reports: Mapping[int, Report]) -> Iterator[NodeFinding]:
    """InfiniBand ports that work on the other nodes and not here."""
    active = {
        n: str(sum(state.startswith("ACTIVE") for state in report.facts.ports.values()))
        for n, report in reports.items()
    }
    odd = odd_ones(active) if active else None
    for number, count in odd.values.items() if odd else ():
        if odd is not None and int(count) < int(odd.usual):
            finding = Finding(
                check="InfiniBand",
                mark=Mark.fail,
                value=f"{count} ports are active",
                limit=f"{odd.usual}, as on the other nodes",
                remedy="look at ibstat, cable and switch port",
            )
            yield NodeFinding(node=number, host=nodes[number].host, finding=finding)


def _clocks(
    nodes: Sequence[Node], *, reports: Mapping[int, Report], limits: PreflightConfig
) -> Iterator[NodeFinding]:
    clocks = {n: r.first_clock for n, r in reports.items() if r.first_clock is not None}
    # The first node ahead of this one by so much: this one is behind it.
    skew_s = skews({n: -clock.ahead_s for n, clock in clocks.items()}) if clocks else {}
    for number, off_s in skew_s.items():
        certain_s = abs(off_s) - clocks[number].error_s
        if certain_s > min(CLOCK_WARN_S, limits.clock_s):
            finding = Finding(
                check="clock",
                mark=Mark.fail if certain_s > limits.clock_s else Mark.warn,
                value=f"{off_s:+.1f} s off the others",
                limit=f"within {limits.clock_s:g} s",
                remedy="synchronise it (chrony or NTP): chronyc tracking",
            )
            yield NodeFinding(node=number, host=nodes[number].host, finding=finding)


def _folders(nodes: Sequence[Node], *, reports: Mapping[int, Report]) -> Iterator[NodeFinding]:
    for number, report in reports.items():
        if not report.sees_folder:
            finding = Finding(
                check="run folder",
                mark=Mark.fail,
                value=f"a file of the first node is not to be seen in {report.facts.disk.folder}",
                remedy="mount the file system all nodes share; run_dir must lie on it",
            )
            yield NodeFinding(node=number, host=nodes[number].host, finding=finding)
