# SPDX-License-Identifier: Apache-2.0
"""The process a rank is: its place in the run and its parent, read from the environment.

Two launchers speak to a rank: torchrun (and ``megacpt train``) through RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; srun through SLURM_*. No torch here.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megacpt.config.sections import DeviceKind
from megacpt.errors import EnvironmentError_

_PR_SET_PDEATHSIG = 1
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000
AT_START = frozenset(os.environ)
"""Names of the variables that this process had before any library could set more."""
STARTED_AT = time.time()
"""Start of this process, nearly: seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """One rank's place. ``local`` counts the ranks of its own machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    """Rank 0 listens there; not used by a run of one rank."""


def rank_from_environment(environment: Mapping[str, str] | None = None) -> RankInfo | None:
    """The rank a launcher made of this process; None if no launcher did."""
    variables = os.environ if environment is None else environment
    if "RANK" in variables or "WORLD_SIZE" in variables:
        return _checked(_torchrun_rank(variables))
    if int(variables.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _checked(_slurm_rank(variables))
    return None


def _torchrun_rank(variables: Mapping[str, str]) -> RankInfo:
    world_size = _integer(variables, name="WORLD_SIZE")
    alone = world_size == 1
    return RankInfo(
        rank=_integer(variables, name="RANK"),
        world_size=world_size,
        local_rank=_integer(variables, name="LOCAL_RANK", default=0 if alone else None),
        local_world_size=_integer(variables, name="LOCAL_WORLD_SIZE", default=1 if alone else None),
        master_addr=_text(variables, name="MASTER_ADDR", default="127.0.0.1" if alone else None),
        master_port=_integer(variables, name="MASTER_PORT", default=0 if alone else None),
    )


def _slurm_rank(variables: Mapping[str, str]) -> RankInfo:
    tasks = _tasks_per_node(_text(variables, name="SLURM_STEP_TASKS_PER_NODE"))
    job = _integer(variables, name="SLURM_JOB_ID") * 7 + _integer(variables, name="SLURM_STEP_ID")
    first_node = expand_hosts(_text(variables, name="SLURM_STEP_NODELIST"))[0]
    return RankInfo(
        rank=_integer(variables, name="SLURM_PROCID"),
        world_size=_integer(variables, name="SLURM_STEP_NUM_TASKS"),
        local_rank=_integer(variables, name="SLURM_LOCALID"),
        local_world_size=tasks[_integer(variables, name="SLURM_NODEID")],
        master_addr=variables.get("MASTER_ADDR", first_node),
        # Steps of one job, and jobs that share a node, meet at ports of their own.
        master_port=_integer(variables, name="MASTER_PORT", default=_FIRST_PORT + job % _NUM_PORTS),
    )


def _checked(ranks: RankInfo) -> RankInfo:
    if not 0 <= ranks.rank < ranks.world_size:
        raise EnvironmentError_(
            f"RANK={ranks.rank} must be at least 0 and less than WORLD_SIZE={ranks.world_size}; "
            "start the ranks with megacpt train, torchrun or srun."
        )
    if not 0 <= ranks.local_rank < ranks.local_world_size:
        raise EnvironmentError_(
            f"LOCAL_RANK={ranks.local_rank} must be at least 0 and less than "
            f"LOCAL_WORLD_SIZE={ranks.local_world_size}; start the ranks with megacpt train, "
            "torchrun or srun."
        )
    return ranks


def _text(variables: Mapping[str, str], *, name: str, default: str | None = None) -> str:
    value = variables.get(name, default)
    if value is None:
        raise EnvironmentError_(
            f"{name} is not set although this process is one rank of several; start the ranks "
            "with megacpt train, torchrun or srun."
        )
    return value


def _integer(variables: Mapping[str, str], *, name: str, default: int | None = None) -> int:
    text = _text(variables, name=name, default=None if default is None else str(default))
    if not re.fullmatch(r"[0-9]+", text):
        raise EnvironmentError_(f"{name}={text} must be a whole number of at least 0; unset it.")
    return int(text)


def _tasks_per_node(text: str) -> list[int]:
    """``4(x2),3`` -> [4, 4, 3]."""
    tasks: list[int] = []
    for count, repeat in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(count)] * int(repeat or 1)
    return tasks


def expand_hosts(node_list: str) -> list[str]:
    """``gpu[07-09,12],cpu1`` -> gpu07, gpu08, gpu09, gpu12, cpu1: how Slurm writes hosts."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", node_list)
    return [host for part in parts for host in _expand(part)]


def _expand(part: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        return [part]
    head, tail = part[: found.start()], part[found.end() :]
    hosts: list[str] = []
    for numbers in found.group(1).split(","):
        low, _, high = numbers.partition("-")
        span = range(int(low), int(high or low) + 1)
        hosts += [f"{head}{n:0{len(low)}d}{end}" for n in span for end in _expand(tail)]
    return hosts


def step_hosts() -> list[str]:
    """The nodes of this job step; none outside Slurm."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    return expand_hosts(nodes)


def node_name() -> str:
    """What Slurm calls this machine, which ``--exclude`` wants; else its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def chosen_interface() -> str | None:
    """``NAME (VARIABLE)`` where the user has chosen the interface that ranks meet on."""
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if os.environ.get(variable):
            return f"{os.environ[variable]} ({variable})"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """The job this process is in; both None outside Slurm."""

    id: str | None
    restarts: int | None
    """How often it was requeued."""


def slurm_job(environment: Mapping[str, str] | None = None) -> SlurmJob:
    variables = os.environ if environment is None else environment
    restarts = variables.get("SLURM_RESTART_COUNT", "")
    return SlurmJob(
        id=variables.get("SLURM_JOB_ID"), restarts=int(restarts) if restarts.isdigit() else None
    )


def job_ends_at(environment: Mapping[str, str] | None = None) -> float | None:
    """When Slurm will end this job, in seconds since 1970; None where it does not say."""
    variables = os.environ if environment is None else environment
    text = variables.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdigit() and int(text) > 0 else None


def is_srun_task() -> bool:
    """srun can give each task GPUs and cores of its own; other launchers share the machine's,
    torchrun also inside a task."""
    return "SLURM_STEP_NUM_TASKS" in os.environ and not has_agent_store()


def slurm_start() -> str | None:
    """``JOB.RESTART`` of the Slurm job that this process belongs to; a requeued job keeps its
    number."""
    job = slurm_job()
    return f"{job.id}.{job.restarts or 0}" if job.id else None


def has_agent_store() -> bool:
    """torchrun keeps the store its ranks meet at in a process of its own."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def threads_from_environment() -> int | None:
    """OMP_NUM_THREADS, the number of CPU threads the user wants of each process."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def num_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def likely_kind(asked: DeviceKind) -> DeviceKind:
    """What ``auto`` will most likely be, before torch is loaded to know it for certain."""
    if asked is not DeviceKind.auto:
        return asked
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset") in ("", "-1")
    return DeviceKind.gpu if gpu_files(Path("/dev")) and not hidden else DeviceKind.cpu


def gpu_files(devices: Path) -> list[Path]:
    """The files through which a driver offers GPUs: nvidia0, nvidia1 ..., or dxg under WSL."""
    return sorted([*devices.glob("nvidia[0-9]*"), *devices.glob("dxg")])


def set_default(name: str, *, value: str) -> None:
    """Set a variable for libraries in this process, unless the user has set it."""
    os.environ.setdefault(name, value)


@contextmanager
def variable(name: str, *, value: str) -> Iterator[None]:
    """Set for libraries while this is open, unless the user has set it."""
    is_ours = name not in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if is_ours:
            del os.environ[name]


def beginning_with(prefix: str) -> dict[str, str]:
    """Variables of this process that say something, but no secrets, by their full names."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(prefix) and value and not name.endswith("_KEY")
    }


def secret(name: str) -> str:
    """A key, for what it is sent with alone; empty if there is none."""
    return os.environ.get(name, "")


def has_secret(name: str) -> bool:
    """Whether a key is there; its value stays where it is."""
    return bool(os.environ.get(name))


def for_child(*, more: Mapping[str, str], without: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a program that is started: this one, with more or without some."""
    return {n: v for n, v in os.environ.items() if n not in without} | dict(more)


def without_secrets() -> dict[str, str]:
    """The environment of a program that is to know no keys, by how such variables are called."""
    return {n: v for n, v in os.environ.items() if not _SECRET.search(n)}


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, in whatever way the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
