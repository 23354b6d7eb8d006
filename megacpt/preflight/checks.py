# SPDX-License-Identifier: Apache-2.0
"""What is asked of one machine: each check with its value, its limit and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from megacpt.config.sections import PreflightConfig
from megacpt.preflight.facts import Disk, NodeFacts
from megacpt.preflight.gpus import Gpu, Gpus
from megacpt.preflight.network import is_loopback
from megacpt.text import memory_size

SLOW_DISK_MIB_S = 50.0
"""A checkpoint of 10 GiB would take more than three minutes."""
SHM_MIB_A_GPU_RANK = 32.0
"""NCCL's segments to its peers in the node; containers often have 64 MiB for all ranks."""
SHM_MIB_USUAL = 1024.0
SERVER_CLOCK_S = 5.0
USED_GPU_MIB = 2048
"""More than the driver's own share of a card: somebody else computes there."""


class Mark(Enum):
    ok = "ok"
    warn = "warn"
    fail = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check of one machine. ``own``: a fault that no other machine can be the cause of."""

    check: str
    mark: Mark
    value: str
    remedy: str = ""
    limit: str = ""
    own: bool = False


def ok(check: str, *, value: str) -> CheckResult:
    return CheckResult(check=check, mark=Mark.ok, value=value)


def warn(check: str, *, value: str, remedy: str, limit: str = "") -> CheckResult:
    return CheckResult(check=check, mark=Mark.warn, value=value, remedy=remedy, limit=limit)


def fail(check: str, *, value: str, remedy: str, limit: str = "", own: bool = False) -> CheckResult:
    return CheckResult(
        check=check, mark=Mark.fail, value=value, remedy=remedy, limit=limit, own=own
    )


def check_disk(disk: Disk, *, limits: PreflightConfig) -> CheckResult:
    """Space and speed of the folder a run writes to."""
    if disk.problem:
        return fail(
            "disk",
            value=f"{disk.folder} cannot be written: {disk.problem}",
            remedy="choose a folder with write permission and free space",
        )
    free = memory_size(disk.free_gib * 2**30, digits=1)
    value = f"{disk.folder}: {free} free, {disk.written_mib_s:,.0f} MiB/s"
    if disk.free_gib < limits.disk_gib:
        limit = f"at least {limits.disk_gib:g} GiB free"
        remedy = "free space, or choose another folder (run_dir=FOLDER)"
        return fail("disk", value=value, limit=limit, remedy=remedy)
    if disk.written_mib_s < limits.disk_mib_s:
        limit = f"at least {limits.disk_mib_s:g} MiB/s"
        remedy = "look for a full or failing disk or network mount, or choose another folder"
        return fail("disk", value=value, limit=limit, remedy=remedy)
    if disk.written_mib_s < SLOW_DISK_MIB_S:
        limit = f"at least {SLOW_DISK_MIB_S:g} MiB/s"
        remedy = "checkpoints will be slow: save less often, or choose a faster folder"
        return warn("disk", value=value, limit=limit, remedy=remedy)
    return ok("disk", value=value)


def check_server_clock(disk: Disk) -> Iterator[CheckResult]:
    """Only where it is wrong: of a local disk the clock is the machine's own."""
    if not disk.problem and abs(disk.clock_ahead_s) > SERVER_CLOCK_S:
        yield warn(
            "file server",
            value=f"its clock is {disk.clock_ahead_s:+.0f} s off this machine's",
            limit=f"within {SERVER_CLOCK_S:g} s",
            remedy="synchronise the clocks of both (chrony, NTP); times of files are wrong",
        )


def check_shm(free_mib: float | None, *, least_mib: float, on_gpu: bool) -> CheckResult:
    remedy = "in a container: --shm-size=1g or --ipc=host; else mount /dev/shm larger"
    if free_mib is None:
        return ok("/dev/shm", value="none on this system")
    value = f"{shown_mib(free_mib)} free"
    if free_mib < least_mib:
        limit = f"at least {least_mib:g} MiB"
        return fail("/dev/shm", value=value, limit=limit, remedy=remedy)
    if on_gpu and free_mib < SHM_MIB_USUAL:
        limit = f"{SHM_MIB_USUAL:g} MiB is usual"
        return warn("/dev/shm", value=value, limit=limit, remedy=remedy)
    return ok("/dev/shm", value=value)


def check_gpus(found: Gpus | None, *, num_needed: int) -> Iterator[CheckResult]:
    """``num_needed``: ranks of this machine that want a GPU each; 0 where none does."""
    if found is None and num_needed == 0:
        yield ok("GPUs", value="none: ranks run on the CPU")
        return
    if found is None:
        # The driver can be there without its tools, as in a slim container: torch will tell.
        yield warn(
            "GPUs",
            value="nvidia-smi is not there",
            remedy="put NVIDIA's tools on PATH, so that the health of the GPUs can be seen",
        )
        return
    if found.problem or len(found.gpus) < num_needed:
        yield fail(
            "GPUs",
            value=found.problem or f"{len(found.gpus)} GPUs",
            limit=f"{num_needed} ranks with one each",
            remedy="see dmesg for NVRM and Xid lines; reboot the node or take it out of service",
            own=True,
        )
        return
    names = sorted({f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" for gpu in found.gpus})
    yield ok("GPUs", value=f"{len(found.gpus)} ({'; '.join(names)}), driver {found.driver}")
    for gpu in found.gpus:
        yield from _check_health(gpu)


def _check_health(gpu: Gpu) -> Iterator[CheckResult]:
    name = f"GPU {gpu.index}"
    if gpu.faults:
        yield fail(
            name,
            value="; ".join(gpu.faults),
            limit="no fault",
            remedy="reset the GPU (nvidia-smi -r) or reboot; have it replaced if it comes back",
            own=True,
        )
    if gpu.notes:
        remedy = "look after cooling and power: all others wait for the slowest GPU"
        yield warn(name, value="; ".join(gpu.notes), remedy=remedy)
    if gpu.used_mib > USED_GPU_MIB:
        value = f"{shown_mib(gpu.used_mib)} of {shown_mib(gpu.memory_mib)} are in use"
        remedy = "end what runs there (nvidia-smi shows it), or ask for other GPUs"
        yield warn(name, value=value, remedy=remedy)


def check_ports(ports: dict[str, str]) -> Iterator[CheckResult]:
    """InfiniBand that is down is often not cabled: odd is only what other nodes have."""
    if ports:
        yield ok("InfiniBand", value=", ".join(f"{name} {state}" for name, state in ports.items()))


def check_address(address: str | None, *, interface: str | None, several: bool) -> CheckResult:
    """``interface``: the one the user has chosen. gloo binds to what the host's name stands for."""
    if interface is not None:
        return ok("network", value=f"interface {interface}")
    if address is not None and not is_loopback(address):
        return ok("network", value=address)
    if address is None:
        value = "this machine's name has no address"
    else:
        value = f"this machine's name stands for {address}, which no other node can reach"
    remedy = (
        "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface nodes meet on "
        "(kernels.environment), or fix /etc/hosts"
    )
    return (fail if several else warn)("network", value=value, remedy=remedy)


def check_node(
    facts: NodeFacts, *, limits: PreflightConfig, num_ranks: int, on_gpu: bool
) -> list[CheckResult]:
    """Checks of a machine that takes part in a run with ``num_ranks`` of its ranks."""
    least_mib = SHM_MIB_A_GPU_RANK * num_ranks if on_gpu else 0.0
    if limits.shm_mib is not None:
        least_mib = limits.shm_mib
    return [
        check_disk(facts.disk, limits=limits),
        *check_server_clock(facts.disk),
        check_shm(facts.shm_free_mib, least_mib=least_mib, on_gpu=on_gpu),
        *check_gpus(facts.gpus, num_needed=num_ranks if on_gpu else 0),
        *check_ports(facts.ports),
    ]


def shown_mib(mib: float) -> str:
    return memory_size(mib * 2**20, digits=1)
