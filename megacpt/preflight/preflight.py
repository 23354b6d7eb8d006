# SPDX-License-Identifier: Apache-2.0
"""Check that each of several nodes can take part, before training: bounded in time, and one line.

    meet at the store -> all there? -> each node checks itself and its way to the others -> verdict
    -> join the process group (megacpt.device.runtime) -> links of all pairs of nodes -> verdict

Only the store is used before the first verdict, so a node that would make gloo or NCCL hang is
named instead. The first rank writes RUN_DIR/preflight.json, and RUN_DIR/bad_nodes.json where a node
is bad; every rank then ends with exit code 69. A fault that most nodes share is the setup's and
ends with 2: no other machine would help.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from megacpt.config.sections import BadNodePolicy, ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, likely_kind, node_name, slurm_job, step_hosts
from megacpt.errors import BadNode, EnvironmentError_
from megacpt.files import write_text
from megacpt.preflight import bad_nodes, facts, links, network, rollcall
from megacpt.preflight.checks import shown_mib
from megacpt.preflight.network import ClockReading, TimeServer
from megacpt.preflight.rollcall import Presence
from megacpt.preflight.verdict import (
    Node,
    NodeReport,
    NodeVerdict,
    judge_absent,
    judge_links,
    judge_nodes,
    report_from_json,
)

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)
FILE = "preflight.json"
TOKEN = ".preflight"
REACH_TIMEOUT_S = 5.0
REACH_THREADS = 32
SEEN_WITHIN_S = 5.0
"""Network file systems may show a new file some seconds late."""
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Preflight:
    """Between its two halves: the nodes of the run, and what the first rank knows so far."""

    ranks: RankInfo
    run_dir: Path
    cluster: ClusterConfig
    settings: str
    """Digest of the configuration this rank was given."""
    store: Store
    nodes: list[Node] = field(default_factory=list)
    spent_s: float = 0.0
    """Both halves; joining the process group lies between them."""
    has_token: bool = False
    """The first node could leave a file that the others must see."""
    record: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def check_nodes(self) -> None:
        """The first half, by the store alone."""
        limit_s = self.cluster.preflight.limit_s
        started_s = time.monotonic()
        with ExitStack() as stack:
            is_leader = self.ranks.local_rank == 0
            port = stack.enter_context(TimeServer()).port if is_leader else 0
            rollcall.announce(self.store, presence=_own_presence(self.ranks, port=port))
            self._call_roll()
            if is_leader:
                own = next(n for n, node in enumerate(self.nodes) if node.leader == self.ranks.rank)
                report = _within(limit_s, work=lambda: self._report(own))
                if report is not None:
                    rollcall.say(self.store, topic=f"report/{own}", tree=asdict(report))
            verdict = self._judge_reports() if self.ranks.rank == 0 else None
            self.spent_s += time.monotonic() - started_s
            self._settle(verdict, topic="nodes")

    def check_links(self, device: torch.device) -> None:
        """The second half, once the process group is joined; every rank calls it."""
        limits = self.cluster.preflight
        started_s = time.monotonic()
        found = None
        if len(self.nodes) > 1:
            found = links.measure(
                self.nodes,
                rank=self.ranks.rank,
                store=self.store,
                device=device,
                limit_s=limits.limit_s,
            )
            verdict = None
            if found is not None:
                verdict = judge_links(self.nodes, rates=found.rates, limits=limits)
                self._note(verdict)
                self.record["links"] = [
                    {"hosts": [self.nodes[a].host, self.nodes[b].host], "mib_s": round(rate, 1)}
                    for (a, b), rate in found.rates.items()
                ]
            self._settle(verdict, topic="links")
        self.spent_s += time.monotonic() - started_s
        if self.ranks.rank == 0:
            self._write("passed", bad={}, good=[node.host for node in self.nodes])
            for warning in self.warnings:
                logger.warning("preflight: %s", warning)
            logger.info("%s", self._summary(found))

    def _call_roll(self) -> None:
        """All nodes, from the first rank's list; it ends the run where a rank has not come."""
        ranks, store, appear_s = self.ranks, self.store, self.cluster.preflight.appear_s
        if ranks.rank == 0:
            present = rollcall.wait_for_all(store, world_size=ranks.world_size, limit_s=appear_s)
            if len(present) < ranks.world_size:
                # Whatever the policy: a run cannot go on without some of its ranks.
                problem = self._refuse(_judge_absent(present, ranks=ranks, appear_s=appear_s))
                rollcall.say_verdict(store, topic="start", ranks=ranks, problem=problem)
            self.nodes = rollcall.nodes_of(present)
            self.has_token = _leave_token(self.run_dir)
            nodes = [asdict(node) for node in self.nodes]
            rollcall.say(store, topic="roll", tree={"nodes": nodes, "token": self.has_token})
            return
        heard: dict[str, Any] = {}
        deadline_s = time.monotonic() + appear_s + rollcall.SLACK_S
        while "roll" not in heard:
            heard = rollcall.hear_all(store, topics=["roll"], limit_s=0.1)
            is_late = time.monotonic() > deadline_s
            rollcall.obey_verdict(store, topic="start", ranks=ranks, limit_s=0.0, must_hear=is_late)
        self.has_token = heard["roll"]["token"]
        self.nodes = [Node(**tree) for tree in heard["roll"]["nodes"]]

    def _report(self, own: int) -> NodeReport:
        """Report on this node, by its leader."""
        sees_folder = not self.has_token or _sees(self.run_dir / TOKEN)
        # Where the shared file system is missing the disk below is measured; what cannot be made is
        # found by the disk check.
        with contextlib.suppress(OSError):
            self.run_dir.mkdir(parents=True, exist_ok=True)
        unreached, first_clock = _ask_all(self.nodes, own=own)
        return NodeReport(
            facts=facts.gather(self.run_dir),
            settings=self.settings,
            sees_folder=sees_folder,
            unreached=unreached,
            first_clock=first_clock,
        )

    def _judge_reports(self) -> NodeVerdict:
        """The first rank's verdict on all reports that have come in time."""
        limits = self.cluster.preflight
        topics = [f"report/{node}" for node in range(len(self.nodes))]
        said = rollcall.hear_all(self.store, topics=topics, limit_s=limits.limit_s)
        reports = {n: report_from_json(said[t]) for n, t in enumerate(topics) if t in said}
        on_gpu = likely_kind(self.cluster.device) is DeviceKind.gpu
        verdict = judge_nodes(self.nodes, reports=reports, limits=limits, on_gpu=on_gpu)
        self.record["nodes"] = [
            {"host": node.host, "ranks": node.ranks, **said.get(topic, {})}
            for node, topic in zip(self.nodes, topics, strict=True)
        ]
        self._note(verdict)
        return verdict

    def _note(self, verdict: NodeVerdict) -> None:
        self.record.setdefault("checks", []).extend(
            {"host": host, **asdict(result), "mark": result.mark.value}
            for host, result in verdict.results
        )
        self.warnings += verdict.warnings

    def _settle(self, verdict: NodeVerdict | None, *, topic: str) -> None:
        """All ranks act on the first one's verdict; only the first has one."""
        ranks, store, limits = self.ranks, self.store, self.cluster.preflight
        if verdict is None:
            limit_s = 2 * limits.limit_s + rollcall.SLACK_S
            rollcall.obey_verdict(store, topic=topic, ranks=ranks, limit_s=limit_s)
            return
        problem = None
        if limits.on_bad is BadNodePolicy.warn:
            self.warnings += verdict.faults
        elif verdict.faults:
            problem = self._refuse(verdict)
        rollcall.say_verdict(store, topic=topic, ranks=ranks, problem=problem)

    def _refuse(self, verdict: NodeVerdict) -> BadNode | EnvironmentError_:
        """The error to end with, after both files are written."""
        self._write("bad nodes" if verdict.bad else "bad setup", bad=verdict.bad, good=[])
        return _error(verdict, run_dir=self.run_dir)

    def _write(self, verdict: str, *, bad: Mapping[str, list[str]], good: Iterable[str]) -> None:
        """Both files. A run folder that takes neither is what the verdict is about, likely."""
        head = {"verdict": verdict, "exclude": list(bad), "time": time.time()}
        head["elapsed_s"] = round(self.spent_s, 3)
        text = json.dumps(head | self.record, indent=2) + "\n"
        job = slurm_job().id
        try:
            bad_nodes.record(self.run_dir, bad=bad, good=good, time=time.time(), job=job)
            write_text(self.run_dir / FILE, text=text)
        except (EnvironmentError_, OSError) as error:
            logger.warning("preflight: %s", error)

    def _summary(self, found: links.Links | None) -> str:
        nodes = "1 node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        words = f"preflight: {nodes} ok in {self.spent_s:.1f} s"
        if found is not None and found.rates:
            worst = min(found.rates, key=found.rates.__getitem__)
            pair = " - ".join(self.nodes[node].host for node in worst)
            words += f"; slowest of {len(found.rates)} links {shown_mib(found.rates[worst])}/s"
            words += f" ({pair})" if len(found.rates) > 1 else ""
            if len(found.rates) < found.num_pairs:
                words += f", {found.num_pairs - len(found.rates)} not measured for lack of time"
        return words


def check_nodes(
    ranks: RankInfo, *, run_dir: Path, cluster: ClusterConfig, settings: Mapping[str, Any]
) -> Preflight:
    """The first half: meet, check, and judge. BadNode or EnvironmentError_ on every rank where a
    node cannot take part. ``settings``: the whole configuration, which all ranks must share."""
    started_s = time.monotonic()
    text = json.dumps(settings, sort_keys=True)
    preflight = Preflight(
        ranks=ranks,
        run_dir=run_dir,
        cluster=cluster,
        settings=hashlib.sha256(text.encode()).hexdigest()[:8],
        store=_meet(ranks, appear_s=cluster.preflight.appear_s),
    )
    preflight.spent_s = time.monotonic() - started_s
    preflight.check_nodes()
    return preflight


def _meet(ranks: RankInfo, *, appear_s: float) -> Store:
    first = ranks.rank == 0
    try:
        limit_s = appear_s if first else appear_s + rollcall.SLACK_S
        return runtime.meet(ranks, timeout=timedelta(seconds=limit_s))
    except dist.DistError as error:
        if first:
            raise EnvironmentError_(
                f"{node_name()}, the node of the first rank, cannot listen at "
                f"{ranks.master_addr}:{ranks.master_port}: {str(error).splitlines()[0]} If "
                "something else listens there, set another MASTER_PORT; MASTER_ADDR must name this "
                "node."
            ) from error
        raise BadNode(
            f"{node_name()} (rank {ranks.rank}) cannot reach the first rank at "
            f"{ranks.master_addr}:{ranks.master_port} within {appear_s:g} s; look at that node, at "
            "the route and firewall between them, and whether MASTER_ADDR is its name on the "
            "network the nodes share."
        ) from error


def _own_presence(ranks: RankInfo, *, port: int) -> Presence:
    address = network.address_towards(ranks.master_addr, port=ranks.master_port or 1)
    if ranks.rank == 0 and ranks.world_size > 1 and network.is_loopback(address):
        # The way to oneself says nothing of the way others take: they know this name.
        address = ranks.master_addr
    return Presence(
        rank=ranks.rank,
        local_rank=ranks.local_rank,
        host=node_name(),
        address=address,
        port=port,
    )


def _judge_absent(present: list[Presence], *, ranks: RankInfo, appear_s: float) -> NodeVerdict:
    hosts = rollcall.absent(present, world_size=ranks.world_size, hosts=step_hosts())
    num_nodes = len({p.host for p in present} | set(hosts))
    first = f"{ranks.master_addr}:{ranks.master_port}"
    return judge_absent(hosts, first=first, num_nodes=num_nodes, appear_s=appear_s)


def _leave_token(run_dir: Path) -> bool:
    """Whether it could be written; why not is the disk check's to say."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / TOKEN).write_text(f"{time.time()}\n", encoding="utf-8")
    except OSError:
        return False
    return True


def _sees(path: Path) -> bool:
    deadline_s = time.monotonic() + SEEN_WITHIN_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True


def _ask_all(nodes: list[Node], *, own: int) -> tuple[dict[int, str], ClockReading | None]:
    """Which nodes this one cannot reach and why; the first node's clock."""

    def ask(number: int) -> ClockReading | str:
        node = nodes[number]
        try:
            return network.ask_time(node.address, port=node.port, timeout_s=REACH_TIMEOUT_S)
        except OSError as error:
            return f"{node.address}:{node.port}: {error.strerror or error}"

    others = [number for number in range(len(nodes)) if number != own]
    with concurrent.futures.ThreadPoolExecutor(max_workers=REACH_THREADS) as pool:
        answers = dict(zip(others, pool.map(ask, others), strict=True))
    first = answers.get(0, ClockReading(ahead_s=0.0, error_s=0.0) if own == 0 else None)
    unreached = {number: why for number, why in answers.items() if isinstance(why, str)}
    return unreached, None if isinstance(first, str) else first


def _within(limit_s: float, *, work: Callable[[], T]) -> T | None:
    """None where it takes too long: a thread that hangs in a dead mount cannot be ended."""
    found: list[T] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=do, name="preflight", daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    return found[0] if found else None


def _error(verdict: NodeVerdict, *, run_dir: Path) -> BadNode | EnvironmentError_:
    skip = "cluster.preflight.on_bad=warn goes on in spite of it."
    lines = "\n".join(f"  {why}" for why in verdict.faults)
    if not verdict.bad:
        return EnvironmentError_(
            f"the preflight has found what most nodes share, so it is no node's own fault:\n"
            f"{lines}\nAll that was found: {run_dir / FILE}; {skip}"
        )
    return BadNode(
        f"the preflight has found nodes that cannot take part:\n{lines}\n"
        f"Start again without them (sbatch --exclude={','.join(verdict.bad)}); they are in "
        f"{run_dir / bad_nodes.NAME}, all that was found in {run_dir / FILE}; {skip}"
    )
