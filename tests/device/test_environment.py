# SPDX-License-Identifier: Apache-2.0
"""A rank's place, as each launcher tells it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from megacpt.device.environment import (
    RankInfo,
    SlurmJob,
    expand_hosts,
    has_secret,
    rank_from_environment,
    slurm_job,
    threads_from_environment,
    variable,
    without_secrets,
)
from megacpt.errors import EnvironmentError_

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "1234",
}
SRUN = {
    "SLURM_JOB_ID": "100",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[07-09],cpu1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}


def test_no_launcher_no_rank() -> None:
    assert rank_from_environment({}) is None


def test_torchrun() -> None:
    assert rank_from_environment(TORCHRUN) == RankInfo(
        rank=3,
        world_size=8,
        local_rank=1,
        local_world_size=2,
        master_addr="node7",
        master_port=1234,
    )


def test_a_single_rank_needs_no_meeting_point() -> None:
    assert rank_from_environment({"RANK": "0", "WORLD_SIZE": "1"}) == RankInfo()


def test_srun() -> None:
    assert rank_from_environment(SRUN) == RankInfo(
        rank=5,
        world_size=7,
        local_rank=1,
        local_world_size=2,
        master_addr="gpu07",
        master_port=20_702,
    )


def test_srun_takes_the_users_meeting_point() -> None:
    ranks = rank_from_environment(SRUN | {"MASTER_ADDR": "ib0", "MASTER_PORT": "99"})
    assert ranks is not None
    assert (ranks.master_addr, ranks.master_port) == ("ib0", 99)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("r[1-2]n[04-08]-ib", "r1n04-ib"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    ranks = rank_from_environment(SRUN | {"SLURM_STEP_NODELIST": nodes})
    assert ranks is not None
    assert ranks.master_addr == first


@pytest.mark.parametrize("tasks", ["1", None])
def test_a_batch_script_and_a_single_task_are_no_ranks(tasks: str | None) -> None:
    batch = {"SLURM_JOB_ID": "100", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    assert rank_from_environment(batch | ({"SLURM_STEP_NUM_TASKS": tasks} if tasks else {})) is None


def test_torchrun_inside_a_step_speaks_first() -> None:
    assert rank_from_environment(SRUN | TORCHRUN) == rank_from_environment(TORCHRUN)


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_each_missing_variable_is_named(name: str) -> None:
    variables = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(EnvironmentError_, match=f"^{name} is not set .*; start the ranks with"):
        rank_from_environment(variables)


@pytest.mark.parametrize("value", ["", "two", "-1", "1.5"])
def test_a_number_must_be_one(value: str) -> None:
    with pytest.raises(EnvironmentError_, match=f"^RANK={value} must be a whole number"):
        rank_from_environment(TORCHRUN | {"RANK": value})


def test_rank_is_below_world_size() -> None:
    with pytest.raises(EnvironmentError_, match="RANK=8 must be at least 0 and less than WORLD_S"):
        rank_from_environment(TORCHRUN | {"RANK": "8"})


def test_local_rank_is_below_local_world_size() -> None:
    with pytest.raises(EnvironmentError_, match="LOCAL_RANK=2 must be at least 0 and less than"):
        rank_from_environment(TORCHRUN | {"LOCAL_RANK": "2"})


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("0", None), ("", None), ("x", None)])
def test_threads(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_from_environment() == threads


def test_secrets_are_seen_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGACPT_TEST_KEY", "k")
    assert has_secret("MEGACPT_TEST_KEY") is True
    monkeypatch.setenv("MEGACPT_TEST_KEY", "")
    assert has_secret("MEGACPT_TEST_KEY") is False


def test_a_program_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_API_KEY", "HF_TOKEN", "Client_Secret", "DB_PASSWORD"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("MEGACPT_TEST", "1")
    given = without_secrets()
    assert given["MEGACPT_TEST"] == "1"
    assert "k" not in given.values()


def test_a_variable_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGACPT_TEST", raising=False)
    with variable("MEGACPT_TEST", value="ours"):
        assert os.environ["MEGACPT_TEST"] == "ours"
    assert "MEGACPT_TEST" not in os.environ
    monkeypatch.setenv("MEGACPT_TEST", "theirs")
    with variable("MEGACPT_TEST", value="ours"):
        assert os.environ["MEGACPT_TEST"] == "theirs"
    assert os.environ["MEGACPT_TEST"] == "theirs"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
def test_a_rank_ends_with_its_killed_launcher() -> None:
    child = (
        "import time\n"
        "from megacpt.device.environment import die_with_parent\n"
        "die_with_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, os, signal\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether the process is alive; one that waits to be collected is not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_rank_with_a_living_parent_goes_on() -> None:
    code = "from megacpt.device.environment import die_with_parent as d; d(); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, SlurmJob(id=None, restarts=None)),
        ({"SLURM_JOB_ID": "17"}, SlurmJob(id="17", restarts=None)),
        ({"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2"}, SlurmJob(id="17", restarts=2)),
    ],
)
def test_job(variables: dict[str, str], job: SlurmJob) -> None:
    assert slurm_job(variables) == job


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu1", ["gpu1"]),
        ("gpu[07-09,12],cpu1", ["gpu07", "gpu08", "gpu09", "gpu12", "cpu1"]),
        ("r[1-2]n[9-10]-ib", ["r1n9-ib", "r1n10-ib", "r2n9-ib", "r2n10-ib"]),
        ("", []),
    ],
)
def test_expand_hosts(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts
