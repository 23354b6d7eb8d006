# SPDX-License-Identifier: Apache-2.0
"""Before training on several nodes: can each of them take part? Bounded in time, and one line.

    meet at the store -> all there? -> each node looks at itself and at the others -> verdict
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

from megacpt.config.schema import to_tree
from megacpt.config.sections import BadNodePolicy, DeviceKind, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, likely_kind, slurm_job
from megacpt.errors import BadNode, EnvironmentError_
from megacpt.files import write_text
from megacpt.preflight import bad_nodes, clock, facts, links, network, rollcall
from megacpt.preflight.checks import shown_mib
from megacpt.preflight.clock import TimeServer
from megacpt.preflight.rollcall import Presence
from megacpt.preflight.verdict import (
    Node,
    Report,
    Verdict,
    judge_links,
    judge_nodes,
    missing,
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
HEARD_WITHIN_S = 10.0
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Preflight:
    """Between its two halves: the nodes of the run, and what the first rank knows so far."""

    config: RunConfig
    ranks: RankInfo
    store: Store
    nodes: list[Node]
    spent_s: float = 0.0
    """In both halves; joining the process group lies between them."""
    has_token: bool = False
    """The first node could leave a file that the others must see."""
    record: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def check_links(self, device: torch.device) -> None:
        """The second half, once the process group is joined; every rank calls it."""
        limits = self.config.cluster.preflight
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
        if found is not None:
            verdict = judge_links(self.nodes, rates=found.rates, limits=limits)
            self._note(verdict)
            self.record["links"] = [
                {"hosts": [self.nodes[a].host, self.nodes[b].host], "mib_s": round(rate, 1)}
                for (a, b), rate in found.rates.items()
            ]
            _settle(self, verdict=verdict, topic="links")
        elif len(self.nodes) > 1:
            _settle(self, verdict=None, topic="links")
        self.spent_s += time.monotonic() - started_s
        if self.ranks.rank == 0:
            self._finish(found)

    def _note(self, verdict: Verdict) -> None:
        self.record.setdefault("checks", []).extend(
            {"host": f.host, **asdict(f.finding), "mark": f.finding.mark.value}
            for f in verdict.findings
        )
        self.warnings += verdict.warnings

    def _finish(self, found: links.Links | None) -> None:
        self.write(verdict="passed", bad={}, good=[node.host for node in self.nodes])
        for warning in self.warnings:
            logger.warning("preflight: %s", warning)
        logger.info("%s", self._summary(found))

    def write(self, *, verdict: str, bad: Mapping[str, list[str]], good: Iterable[str]) -> None:
        """Both files. A run folder that takes neither is what the verdict is about, likely."""
        head = {"verdict": verdict, "exclude": list(bad), "time": time.time()}
        head["elapsed_s"] = round(self.spent_s, 3)
        run_dir, job = Path(self.config.run_dir), slurm_job().id
        try:
            bad_nodes.record(run_dir, bad=bad, good=good, time=time.time(), job=job)
            write_text(run_dir / FILE, text=json.dumps(head | self.record, indent=2) + "\n")
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


def look(config: RunConfig, *, ranks: RankInfo) -> Preflight:
    """The first half: meet, look, and judge. BadNode or EnvironmentError_ on every rank where a
    node cannot take part."""
    limits = config.cluster.preflight
    started_s = time.monotonic()
    store = _meet(ranks, appear_s=limits.appear_s)
    with ExitStack() as stack:
        server = stack.enter_context(TimeServer()) if ranks.local_rank == 0 else None
        port = server.port if server else 0
        rollcall.announce(store, presence=_own_presence(ranks, port=port))
        preflight = Preflight(config=config, ranks=ranks, store=store, nodes=[])
        preflight.nodes = _roll(preflight)
        if ranks.local_rank == 0:
            own = next(n for n, node in enumerate(preflight.nodes) if node.leader == ranks.rank)
            report = _within(limits.limit_s, work=lambda: _report(preflight, own=own))
            if report is not None:
                rollcall.say(store, topic=f"report/{own}", tree=report.to_json())
        verdict = _collect(preflight) if ranks.rank == 0 else None
        preflight.spent_s = time.monotonic() - started_s
        _settle(preflight, verdict=verdict, topic="nodes")
    return preflight


def _meet(ranks: RankInfo, *, appear_s: float) -> Store:
    first = ranks.rank == 0
    try:
        limit_s = appear_s if first else appear_s + rollcall.SLACK_S
        return runtime.meet(ranks, timeout=timedelta(seconds=limit_s))
    except dist.DistError as error:
        if first:
            raise EnvironmentError_(
                f"{network.node_name()}, the node of the first rank, cannot listen at "
                f"{ranks.master_addr}:{ranks.master_port}: {str(error).splitlines()[0]} If "
                "something else listens there, set another MASTER_PORT; MASTER_ADDR must name this "
                "node."
            ) from error
        raise BadNode(
            f"{network.node_name()} (rank {ranks.rank}) cannot reach the first rank at "
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
        host=network.node_name(),
        address=address,
        port=port,
    )


def _roll(preflight: Preflight) -> list[Node]:
    """All nodes, from the first rank's list; it ends the run where a rank has not come."""
    ranks, store = preflight.ranks, preflight.store
    appear_s = preflight.config.cluster.preflight.appear_s
    if ranks.rank == 0:
        present = rollcall.wait_for_all(store, world_size=ranks.world_size, limit_s=appear_s)
        lost = None
        if len(present) < ranks.world_size:
            lost = _missing(present, ranks=ranks, appear_s=appear_s)
        else:
            preflight.nodes = rollcall.nodes_of(present)
            preflight.has_token = _leave_token(Path(preflight.config.run_dir))
            nodes = [asdict(node) for node in preflight.nodes]
            rollcall.say(store, topic="roll", tree={"nodes": nodes, "token": preflight.has_token})
        _settle(preflight, verdict=lost, topic="start", say_all_well=False)
        return preflight.nodes
    heard: dict[str, Any] = {}
    deadline_s = time.monotonic() + appear_s + rollcall.SLACK_S
    while "roll" not in heard:
        heard = rollcall.hear_all(store, topics=["roll"], limit_s=0.1)
        _obey(preflight, topic="start", limit_s=0.0, must=time.monotonic() > deadline_s)
    preflight.has_token = heard["roll"]["token"]
    return [Node(**tree) for tree in heard["roll"]["nodes"]]


def _missing(present: list[Presence], *, ranks: RankInfo, appear_s: float) -> Verdict:
    hosts = rollcall.absent(present, ranks=ranks, slurm_hosts=network.slurm_hosts())
    num_nodes = len({p.host for p in present} | set(hosts))
    first = f"{ranks.master_addr}:{ranks.master_port}"
    return missing(hosts, first=first, num_nodes=num_nodes, appear_s=appear_s)


def _leave_token(run_dir: Path) -> bool:
    """Whether it could be written; why not is the disk check's to say."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / TOKEN).write_text(f"{time.time()}\n", encoding="utf-8")
    except OSError:
        return False
    return True


def _report(preflight: Preflight, *, own: int) -> Report:
    """This node, by its leader."""
    run_dir = Path(preflight.config.run_dir)
    sees_folder = not preflight.has_token or _sees(run_dir / TOKEN)
    # Where the shared file system is missing the disk below is measured; what cannot be made is
    # found by the disk check.
    with contextlib.suppress(OSError):
        run_dir.mkdir(parents=True, exist_ok=True)
    unreached, first_clock = _ask_all(preflight.nodes, own=own)
    return Report(
        facts=facts.gather(run_dir),
        settings=_digest(preflight.config),
        sees_folder=sees_folder,
        unreached=unreached,
        first_clock=first_clock,
    )


def _sees(path: Path) -> bool:
    deadline_s = time.monotonic() + SEEN_WITHIN_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True


def _digest(config: RunConfig) -> str:
    text = json.dumps(to_tree(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _ask_all(nodes: list[Node], *, own: int) -> tuple[dict[int, str], clock.Reading | None]:
    """Which nodes this one cannot reach and why; the first node's clock."""

    def ask(number: int) -> clock.Reading | str:
        node = nodes[number]
        try:
            return clock.ask(node.address, port=node.port, timeout_s=REACH_TIMEOUT_S)
        except OSError as error:
            return f"{node.address}:{node.port}: {error.strerror or error}"

    others = [number for number in range(len(nodes)) if number != own]
    with concurrent.futures.ThreadPoolExecutor(max_workers=REACH_THREADS) as pool:
        answers = dict(zip(others, pool.map(ask, others), strict=True))
    first = answers.get(0, clock.Reading(ahead_s=0.0, error_s=0.0) if own == 0 else None)
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


def _collect(preflight: Preflight) -> Verdict:
    """The first rank, of all reports."""
    limits, nodes = preflight.config.cluster.preflight, preflight.nodes
    topics = [f"report/{number}" for number in range(len(nodes))]
    said = rollcall.hear_all(preflight.store, topics=topics, limit_s=limits.limit_s)
    reports = {
        number: report_from_json(said[topic])
        for number, topic in enumerate(topics)
        if topic in said
    }
    on_gpu = likely_kind(preflight.config.cluster.device) is DeviceKind.gpu
    verdict = judge_nodes(nodes, reports=reports, limits=limits, on_gpu=on_gpu)
    preflight.record["nodes"] = [
        {"host": node.host, "ranks": node.ranks}
        | (reports[number].to_json() if number in reports else {})
        for number, node in enumerate(nodes)
    ]
    preflight._note(verdict)
    return verdict


def _settle(
    preflight: Preflight, *, verdict: Verdict | None, topic: str, say_all_well: bool = True
) -> None:
    """All ranks act on the first one's verdict; only the first has one."""
    if preflight.ranks.rank > 0:
        _obey(preflight, topic=topic, limit_s=_patience(preflight), must=True)
        return
    problem = _problem(preflight, verdict=verdict) if verdict is not None else None
    if problem is None:
        if say_all_well:
            rollcall.say(preflight.store, topic=f"verdict/{topic}", tree=None)
        return
    tree = [isinstance(problem, BadNode), str(problem)]
    rollcall.say(preflight.store, topic=f"verdict/{topic}", tree=tree)
    rollcall.let_all_hear(
        preflight.store, topic=topic, ranks=preflight.ranks, limit_s=HEARD_WITHIN_S
    )
    raise problem


def _obey(preflight: Preflight, *, topic: str, limit_s: float, must: bool) -> None:
    heard = rollcall.hear_all(preflight.store, topics=[f"verdict/{topic}"], limit_s=limit_s)
    if not heard and must:
        raise BadNode(
            f"{network.node_name()} (rank {preflight.ranks.rank}) has heard nothing of the first "
            f"rank's preflight ({topic}); see that rank's log."
        )
    tree = heard.get(f"verdict/{topic}")
    if tree is not None:
        rollcall.let_all_hear(
            preflight.store, topic=topic, ranks=preflight.ranks, limit_s=HEARD_WITHIN_S
        )
        is_node, text = tree
        raise BadNode(text) if is_node else EnvironmentError_(text)


def _patience(preflight: Preflight) -> float:
    return 2 * preflight.config.cluster.preflight.limit_s + rollcall.SLACK_S


def _problem(preflight: Preflight, *, verdict: Verdict) -> BadNode | EnvironmentError_ | None:
    """Writes both files where there is one; None where the run goes on."""
    if verdict.passes:
        return None
    config = preflight.config
    if config.cluster.preflight.on_bad is BadNodePolicy.warn:
        reasons = [why for own in verdict.bad.values() for why in own]
        preflight.warnings += [*reasons, *verdict.common]
        return None
    words = "bad nodes" if verdict.bad else "bad setup"
    preflight.write(verdict=words, bad=verdict.bad, good=[])
    return _worded(verdict, run_dir=Path(config.run_dir))


def _worded(verdict: Verdict, *, run_dir: Path) -> BadNode | EnvironmentError_:
    skip = "cluster.preflight.on_bad=warn goes on in spite of it."
    if not verdict.bad:
        lines = "\n".join(f"  {why}" for why in verdict.common)
        return EnvironmentError_(
            f"the preflight has found what most nodes share, so it is no node's own fault:\n"
            f"{lines}\nAll that was found: {run_dir / FILE}; {skip}"
        )
    reasons = [why for own in verdict.bad.values() for why in own]
    lines = "\n".join(f"  {why}" for why in [*reasons, *verdict.common])
    hosts = ",".join(verdict.bad)
    return BadNode(
        f"the preflight has found nodes that cannot take part:\n{lines}\n"
        f"Start again without them (sbatch --exclude={hosts}); they are in "
        f"{run_dir / bad_nodes.NAME}, all that was found in {run_dir / FILE}; {skip}"
    )
