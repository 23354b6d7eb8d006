# SPDX-License-Identifier: Apache-2.0
"""Can this machine do the work? One screen of checks, each with a remedy where it is not ok."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

import megacpt
from megacpt.config.sections import PreflightConfig
from megacpt.device.environment import chosen_interface, node_name, num_cores
from megacpt.device.packages import (
    broken,
    declared,
    declared_python,
    found_version,
    pins,
    satisfies,
    torch_cuda,
)
from megacpt.preflight import facts, gpus, network
from megacpt.preflight.checks import (
    SHM_MIB_A_GPU_RANK,
    CheckResult,
    Mark,
    check_address,
    check_disk,
    check_gpus,
    check_ports,
    check_server_clock,
    check_shm,
    fail,
    ok,
    warn,
)
from megacpt.preflight.gpus import Gpus
from megacpt.text import memory_size, wrapped

MEMORY_GIB = 4.0
OPEN_FILES = 4096
"""A rank opens one for each shard, peer and checkpoint file."""
SLURM = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_INDENT = 18


def diagnose(folder: Path) -> list[CheckResult]:
    """``folder``: where runs are to be written; takes two seconds or less without GPUs."""
    found = gpus.query()
    measured = facts.measure_disk(folder)
    num_gpus = len(found.gpus) if found else 0
    shm_mib = SHM_MIB_A_GPU_RANK * num_gpus
    return [
        _python(),
        _extension(),
        *_packages(),
        *_torch(found),
        _cores(),
        _memory(),
        check_shm(facts.shm_free_mib(), least_mib=shm_mib, on_gpu=num_gpus > 0),
        check_disk(measured, limits=PreflightConfig()),
        *check_server_clock(measured),
        # No ranks are planned here, so that any number of GPUs is right.
        *check_gpus(found, num_needed=0),
        *check_ports(network.infiniband_ports()),
        _slurm(),
        _clock(),
        _network(),
        _files(),
    ]


def passes(results: Sequence[CheckResult]) -> bool:
    return all(result.mark is not Mark.fail for result in results)


def screen(results: Sequence[CheckResult]) -> str:
    """Text of at most 80 columns; the remedy stands below what is not ok."""
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    lines = [f"megacpt {megacpt.__version__} on {node_name()}, {now}", ""]
    for result in results:
        lines += _lines(result)
    counts = {mark: sum(r.mark is mark for r in results) for mark in (Mark.fail, Mark.warn)}
    words = [f"{n} {mark.value}" for mark, n in counts.items() if n]
    return "\n".join([*lines, "", ", ".join(words) or "All is well."])


def _lines(result: CheckResult) -> list[str]:
    is_ok = result.mark is Mark.ok
    limit = f" (wanted: {result.limit})" if result.limit and not is_ok else ""
    head = f"{result.mark.value:<5} {result.check:<{_INDENT - 6}}"
    lines = wrapped(result.value + limit, head=head, indent=_INDENT)
    if is_ok:
        return lines
    return lines + wrapped(result.remedy, head=" " * (_INDENT - 3) + "-> ", indent=_INDENT)


def _python() -> CheckResult:
    version, wanted = platform.python_version(), declared_python()
    if satisfies(version, wanted=wanted):
        return ok("Python", value=version)
    remedy = "make the environment with a Python in that range, such as python3.12"
    return fail("Python", value=version, limit=str(wanted), remedy=remedy)


def _extension() -> CheckResult:
    """The C++ part, which is built where megacpt is installed from source."""
    value = f"{megacpt.__version__}, C++ extension"
    try:
        importlib.import_module("megacpt._C")
    except ImportError as error:
        compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        first = "" if compiler else "install a C++17 compiler (g++), then "
        return fail(
            "megacpt",
            value=f"{value} cannot be loaded: {error}",
            remedy=f"{first}pip install --force-reinstall --no-deps megacpt, or -e . of a checkout",
        )
    return ok("megacpt", value=f"{value} loaded")


def _packages() -> Iterator[CheckResult]:
    needs, tested = declared(), pins()
    wrong = broken(needs)
    if wrong:
        remedy = "pip install --upgrade 'megacpt' (-c constraints.txt: the tested versions)"
        yield fail("packages", value="; ".join(wrong), remedy=remedy)
    off = [
        f"{need.name} {version} (tested: {tested[need.name].specifier})"
        for need in needs
        if (version := found_version(need.name)) is not None
        and need.name in tested
        and not satisfies(version, wanted=tested[need.name].specifier)
    ]
    if off:
        remedy = "in their range but not tested: pip install -c constraints.txt 'megacpt'"
        yield warn("packages", value="; ".join(off), remedy=remedy)
    if not wrong and not off:
        shown = ", ".join(f"{n} {found_version(n)}" for n in ("torch", "megatron-core", "numpy"))
        agree = "as tested" if tested else "in their ranges"
        yield ok("packages", value=f"{shown}; {len(needs)} {agree}")


def _torch(found: Gpus | None) -> Iterator[CheckResult]:
    """What torch was built for against what the driver runs."""
    if found is None or not found.gpus or found_version("torch") is None:
        return
    built_for = torch_cuda()
    if built_for is None:
        yield fail(
            "torch",
            value=f"{found_version('torch')} is a build for CPUs, and GPUs are here",
            remedy="install torch for CUDA (https://pytorch.org/get-started), or use "
            "cluster.device=cpu",
        )
        return
    value = f"built for CUDA {built_for}, driver {found.driver} runs up to {found.cuda}"
    newest, needed = found.cuda.partition(".")[0], built_for.partition(".")[0]
    if newest.isdigit() and int(newest) < int(needed):
        limit = f"a driver for CUDA {built_for}"
        remedy = "install a newer driver, or torch for an older CUDA"
        yield fail("torch", value=value, limit=limit, remedy=remedy)
    else:
        yield ok("torch", value=value)


def _cores() -> CheckResult:
    usable, there = num_cores(), os.cpu_count() or 1
    value = f"{usable} cores" + f" of {there}" * (usable < there)
    if usable == 1 < there:
        remedy = "ask for more (--cpus-per-task, taskset): reading data takes one by itself"
        return warn("CPU", value=value, remedy=remedy)
    return ok("CPU", value=value)


def _memory() -> CheckResult:
    memory = psutil.virtual_memory()
    limit = _CGROUP_MEMORY.read_text().strip() if _CGROUP_MEMORY.is_file() else "max"
    total = min(memory.total, int(limit)) if limit.isdigit() else memory.total
    free = min(memory.available, total)
    value = f"{memory_size(free, digits=1)} available of {memory_size(total, digits=1)}"
    if free >= MEMORY_GIB * 2**30:
        return ok("memory", value=value)
    remedy = "megacpt plan says what a run needs; end other programs, or raise the job's --mem"
    return warn("memory", value=value, limit=f"{MEMORY_GIB:g} GiB", remedy=remedy)


def _slurm() -> CheckResult:
    there = [name for name in SLURM if shutil.which(name)]
    missing = [name for name in SLURM if name not in there]
    if not there:
        return ok("Slurm", value="not here: runs start on this machine")
    if missing:
        value = f"{', '.join(there)}, but not {', '.join(missing)}"
        remedy = "put Slurm's other client commands on PATH, or submit from a login node"
        return warn("Slurm", value=value, remedy=remedy)
    return ok("Slurm", value=", ".join(there))


def _clock() -> CheckResult:
    """What the kernel knows of its clock: there are no other nodes to ask."""
    synchronised = network.clock_is_synchronised()
    if synchronised is False:
        value = "the kernel says that nothing keeps it right"
        remedy = "run chrony or systemd-timesyncd; Slurm's munge refuses 5 minutes of difference"
        return warn("clock", value=value, remedy=remedy)
    if synchronised:
        return ok("clock", value="synchronised")
    return ok("clock", value="nothing is known of its synchronisation here")


def _network() -> CheckResult:
    found = check_address(network.own_address(), interface=chosen_interface(), several=False)
    names = ", ".join(f"{name} {address}" for name, address in network.interfaces().items())
    value = f"{found.value}; interfaces: {names or 'none'}"
    remedy = found.remedy and f"only for runs on several nodes: {found.remedy}"
    return replace(found, value=value, remedy=remedy)


def _files() -> CheckResult:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return ok("open files", value="no limit")
    value = f"up to {most:,} a process"
    if most >= OPEN_FILES:
        return ok("open files", value=value)
    remedy = "raise the hard limit (ulimit -Hn, limits.conf, LimitNOFILE of slurmd)"
    return warn("open files", value=value, limit=f"{OPEN_FILES:,}", remedy=remedy)
