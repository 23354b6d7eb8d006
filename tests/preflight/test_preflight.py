# SPDX-License-Identifier: Apache-2.0
"""The preflight on real nodes: processes, and network namespaces where root can make them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import ClusterConfig
from megacpt.device.environment import RankInfo
from megacpt.errors import EnvironmentError_
from megacpt.preflight import bad_nodes, preflight
from tests.forked import PYTHON
from tests.run_on_ranks import rank_command, rank_variables, start_rank, wait_for_ranks
from tests.support import free_port

IS_ROOT = os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "tc", "unshare"))
Case = dict[str, Any]


def run_nodes(
    work: Path,
    cases: dict[str, Case],
    *,
    num_nodes: int,
    master: str = "127.0.0.1",
    prefixes: Sequence[Sequence[str]] = (),
    variables: dict[str, str] | None = None,
) -> dict[str, dict[int, Any]]:
    """Case -> rank -> its end."""
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        assert name not in os.environ
    python = sys.executable if prefixes else PYTHON
    command = rank_command("tests.preflight.node:go_through", work, cases=cases, python=python)
    common = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": master}
    common |= variables or {}
    port = free_port(span=len(cases))
    nodes = [
        start_rank(
            [*(prefixes[node] if prefixes else ()), *command],
            variables=rank_variables(node, world=num_nodes, port=port)
            | common
            | {"SLURMD_NODENAME": f"node{node}"},
        )
        for node in range(num_nodes)
    ]
    wait_for_ranks(nodes, timeout_s=240)
    return {name: _ends(work, name, num_nodes=num_nodes) for name in cases}


def _ends(work: Path, name: str, *, num_nodes: int) -> dict[int, Any]:
    paths = {rank: work / f"{name}.{rank}.json" for rank in range(num_nodes)}
    return {rank: json.loads(p.read_text()) for rank, p in paths.items() if p.exists()}


def plant_version(folder: Path, package: str, version: str) -> str:
    """Metadata of another version, as a forgotten folder on a node's own disk would have it."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return str(folder)


def test_two_nodes(tmp_path: Path) -> None:
    """Both well; one with another package; one that never comes, or whose first never does."""
    run = tmp_path / "run"
    cases: dict[str, Case] = {
        "well": {},
        "version": {"path": {"1": plant_version(tmp_path / "old", "numpy", "1.0.0")}},
        "warned": {
            "path": {"1": str(tmp_path / "old")},
            "settings": {"on_bad": "warn"},
            "run_dir": str(tmp_path / "warned"),
        },
        "lost": {"absent": [1], "settings": {"appear_s": 1.0}, "run_dir": str(tmp_path / "lost")},
        "lost-warned": {
            "absent": [1],
            "settings": {"appear_s": 1.0, "on_bad": "warn"},
            "run_dir": str(tmp_path / "lost-warned"),
        },
        "headless": {"absent": [0], "settings": {"appear_s": 0.1}},
    }
    ends = run_nodes(tmp_path, cases, num_nodes=2)

    assert {end["code"] for end in ends["well"].values()} == {0}
    assert ends["well"][0]["message"] == "2 ranks"
    summary = ends["well"][0]["said"][-1]
    assert summary.startswith("preflight: 2 nodes ok in ")
    assert "; slowest of 1 links " in summary
    assert ends["well"][1]["said"] == []

    assert {end["code"] for end in ends["version"].values()} == {69}
    message = ends["version"][0]["message"]
    assert ends["version"][1]["message"] == message
    assert "node1: numpy: 1.0.0 (wanted: " in message
    assert "as on 1 of 2 nodes); give all nodes the same files" in message
    assert "sbatch --exclude=node1" in message
    assert bad_nodes.hosts_to_exclude(run) == ["node1"]
    record = json.loads((run / "preflight.json").read_text())
    assert (record["verdict"], record["exclude"]) == ("bad nodes", ["node1"])
    assert [node["host"] for node in record["nodes"]] == ["node0", "node1"]

    assert {end["code"] for end in ends["warned"].values()} == {0}
    assert any("numpy: 1.0.0" in line for line in ends["warned"][0]["said"])
    assert not (tmp_path / "warned" / "bad_nodes.json").exists()

    for case in ("lost", "lost-warned"):
        assert list(ends[case]) == [0]
        assert ends[case][0]["code"] == 69
        assert "the node of rank 1: start: no rank has appeared" in ends[case][0]["message"]

    assert list(ends["headless"]) == [1]
    assert ends["headless"][1]["code"] == 69
    assert ends["headless"][1]["message"].startswith("node1 (rank 1) cannot reach the first rank")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[list[list[str]]]:
    """Three hosts on a switch, each a network namespace; the words that run a command there."""
    tag = f"pf{os.getpid()}"
    with ExitStack() as stack:

        def make(name: str) -> None:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)

        make(f"{tag}s")
        ip("-n", f"{tag}s", "link", "add", "sw", "type", "bridge")
        ip("-n", f"{tag}s", "link", "set", "sw", "up")
        for node in range(3):
            name = f"{tag}n{node}"
            make(name)
            peer = ("peer", "name", f"p{node}", "netns", f"{tag}s")
            ip("-n", name, "link", "add", "eth0", "type", "veth", *peer)
            ip("-n", f"{tag}s", "link", "set", f"p{node}", "master", "sw", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{node + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        enter = ("unshare", "--uts", "sh", "-c")
        yield [
            ["ip", "netns", "exec", f"{tag}n{n}", *enter, f'hostname machine{n}; exec "$@"', "sh"]
            for n in range(3)
        ]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True)
    try:
        (folder / "data").write_bytes(bytes(60 * 1024))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not IS_ROOT, reason="needs root, ip, tc and unshare")
def test_three_machines(tmp_path: Path, network: list[list[str]], full_folder: Path) -> None:
    """A full disk that all share, a mount that one lacks, a slow cable, a wall between two."""
    run = tmp_path / "run"
    cases: dict[str, Case] = {
        "full": {"run_dir": str(full_folder)},
        "mount": {
            "run_dir": str(tmp_path / "shared"),
            # In a mount namespace of that process alone, as ip netns exec has made it.
            "before": {"1": f"mkdir -p {tmp_path}/shared; mount -t tmpfs none {tmp_path}/shared"},
        },
        "slow": {
            "before": {"2": "tc qdisc add dev eth0 root tbf rate 80mbit burst 64kb latency 1s"}
        },
        "wall": {
            "before": {
                "2": "tc qdisc del dev eth0 root",
                "1": "ip route add unreachable 10.77.0.3",
            },
            "run_dir": str(tmp_path / "wall"),
        },
    }
    ends = run_nodes(
        tmp_path,
        cases,
        num_nodes=3,
        master="10.77.0.1",
        prefixes=network,
        variables={"GLOO_SOCKET_IFNAME": "eth0"},
    )

    assert {end["code"] for end in ends["full"].values()} == {2}
    message = ends["full"][2]["message"]
    for node in range(3):
        assert f"node{node}: disk: {full_folder} cannot be written: No space left" in message
    assert "no node's own fault" in message

    assert {end["code"] for end in ends["mount"].values()} == {69}
    assert (
        "node1: run folder: a file of the first node is not to be seen"
        in (ends["mount"][0]["message"])
    )
    assert bad_nodes.hosts_to_exclude(tmp_path / "shared") == ["node1"]

    assert {end["code"] for end in ends["slow"].values()} == {69}
    assert "node2: link: " in ends["slow"][0]["message"]
    assert bad_nodes.hosts_to_exclude(run) == ["node2"]
    links = json.loads((run / "preflight.json").read_text())["links"]
    rates = {tuple(link["hosts"]): link["mib_s"] for link in links}
    assert rates["node0", "node1"] > 4 * max(rates["node0", "node2"], rates["node1", "node2"])
    assert rates["node0", "node2"] < 40

    assert {end["code"] for end in ends["wall"].values()} == {69}
    assert "node2: reach: node1 cannot reach node2: 10.77.0.3:" in ends["wall"][0]["message"]
    assert bad_nodes.hosts_to_exclude(tmp_path / "wall") == ["node2"]


def test_one_node_where_asked(tmp_path: Path) -> None:
    """It meets nobody, so no port is used."""
    (end,) = run_nodes(tmp_path, {"alone": {"settings": {"when": "always"}}}, num_nodes=1)[
        "alone"
    ].values()
    assert end["message"] == "1 ranks"
    assert end["said"][-1].startswith("preflight: 1 node ok in ")


def test_a_port_that_something_else_has_is_no_bad_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ranks = RankInfo(rank=0, world_size=2, master_port=other.getsockname()[1])
        with pytest.raises(EnvironmentError_, match=r"cannot listen at 127\.0\.0\.1:\d+: .*in use"):
            preflight.check_nodes(ranks, run_dir=tmp_path, cluster=ClusterConfig(), settings={})
