# SPDX-License-Identifier: Apache-2.0
"""Can this machine do the work? One screen of checks, each with a remedy where it is not ok."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

import megacpt
from megacpt.config.sections import PreflightConfig
from megacpt.device.environment import num_cores
from megacpt.device.packages import found_version
from megacpt.preflight import clock, disk, facts, gpus, network, requirements
from megacpt.preflight.checks import (
    SHM_MIB_A_GPU_RANK,
    Finding,
    Mark,
    address_finding,
    disk_finding,
    gpu_findings,
    port_findings,
    server_clock_findings,
    shm_finding,
)
from megacpt.preflight.gpus import Gpus
from megacpt.text import memory_size

WIDTH = 80
MEMORY_GIB = 4.0
OPEN_FILES = 4096
"""A rank opens one for each shard, peer and piece of a checkpoint."""
SLURM = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_INDENT = 18


def diagnose(folder: Path) -> list[Finding]:
    """``folder``: where runs are to be written; takes two seconds or less without GPUs."""
    limits = PreflightConfig()
    found = gpus.query()
    measured = disk.measure(folder)
    num_gpus = len(found.gpus) if found else 0
    return [
        _python(),
        _extension(),
        *_packages(),
        *_torch(found),
        _cores(),
        _memory(),
        shm_finding(
            facts.shm_free_mib(),
            least_mib=SHM_MIB_A_GPU_RANK * num_gpus,
            on_gpu=num_gpus > 0,
        ),
        disk_finding(measured, limits=limits),
        *server_clock_findings(measured),
        *_gpus(found),
        *port_findings(network.infiniband_ports()),
        _slurm(),
        _clock(),
        _network(),
        _files(),
    ]


def passes(findings: Sequence[Finding]) -> bool:
    return all(finding.mark is not Mark.fail for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """At most 80 columns; the remedy stands below what is not ok."""
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    lines = [f"megacpt {megacpt.__version__} on {network.node_name()}, {now}", ""]
    for finding in findings:
        lines += _lines(finding)
    counts = {mark: sum(f.mark is mark for f in findings) for mark in (Mark.fail, Mark.warn)}
    words = [f"{n} {mark.value}" for mark, n in counts.items() if n]
    return "\n".join([*lines, "", ", ".join(words) or "All is well."])


def _lines(finding: Finding) -> list[str]:
    limit = f" (wanted: {finding.limit})" if finding.limit and finding.mark is not Mark.ok else ""
    head = f"{finding.mark.value:<5} {finding.check:<{_INDENT - 6}}"
    text = textwrap.fill(
        finding.value + limit,
        width=WIDTH,
        initial_indent=head,
        subsequent_indent=" " * _INDENT,
    )
    if finding.mark is Mark.ok:
        return text.splitlines()
    remedy = textwrap.fill(
        finding.remedy,
        width=WIDTH,
        initial_indent=" " * (_INDENT - 3) + "-> ",
        subsequent_indent=" " * _INDENT,
    )
    return [*text.splitlines(), *remedy.splitlines()]


def _python() -> Finding:
    version, wanted = platform.python_version(), requirements.declared_python()
    fits = requirements.satisfies(version, wanted=wanted)
    return Finding(
        check="Python",
        mark=Mark.ok if fits else Mark.fail,
        value=version,
        limit=str(wanted),
        remedy="make the environment with a Python in that range, such as python3.12",
    )


def _extension() -> Finding:
    """The C++ part, which is built where megacpt is installed from source."""
    value = f"{megacpt.__version__}, C++ extension"
    try:
        importlib.import_module("megacpt._C")
    except ImportError as error:
        compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        first = "" if compiler else "install a C++17 compiler (g++), then "
        return Finding(
            check="megacpt",
            mark=Mark.fail,
            value=f"{value} cannot be loaded: {error}",
            remedy=f"{first}pip install --force-reinstall --no-deps megacpt, or -e . of a checkout",
        )
    return Finding(check="megacpt", mark=Mark.ok, value=f"{value} loaded")


def _packages() -> Iterator[Finding]:
    needs = requirements.declared()
    wrong = requirements.broken(needs)
    if wrong:
        yield Finding(
            check="packages",
            mark=Mark.fail,
            value="; ".join(wrong),
            remedy="pip install --upgrade 'megacpt' (-c constraints.txt: the tested versions)",
        )
    pins = requirements.pins()
    off = [
        f"{need.name} {version} (tested: {pins[need.name].specifier})"
        for need in needs
        if (version := found_version(need.name)) is not None
        and need.name in pins
        and not requirements.satisfies(version, wanted=pins[need.name].specifier)
    ]
    shown = ", ".join(f"{n} {found_version(n)}" for n in ("torch", "megatron-core", "numpy"))
    if off:
        yield Finding(
            check="packages",
            mark=Mark.warn,
            value="; ".join(off),
            remedy="in their range but not tested: pip install -c constraints.txt 'megacpt'",
        )
    if not wrong and not off:
        agree = "as tested" if pins else "in their ranges"
        yield Finding(check="packages", mark=Mark.ok, value=f"{shown}; {len(needs)} {agree}")


def _torch(found: Gpus | None) -> Iterator[Finding]:
    """What torch was built for against what the driver runs."""
    if found is None or not found.gpus or found_version("torch") is None:
        return
    built_for = facts.torch_cuda()
    if built_for is None:
        yield Finding(
            check="torch",
            mark=Mark.fail,
            value=f"{found_version('torch')} is a build for CPUs, and GPUs are here",
            remedy="install torch for CUDA (https://pytorch.org/get-started), or use "
            "cluster.device=cpu",
        )
        return
    too_old = found.cuda.partition(".")[0].isdigit() and int(found.cuda.partition(".")[0]) < int(
        built_for.partition(".")[0]
    )
    yield Finding(
        check="torch",
        mark=Mark.fail if too_old else Mark.ok,
        value=f"built for CUDA {built_for}, driver {found.driver} runs up to {found.cuda}",
        limit=f"a driver for CUDA {built_for}",
        remedy="install a newer driver, or torch for an older CUDA",
    )


def _cores() -> Finding:
    usable, there = num_cores(), os.cpu_count() or 1
    value = f"{usable} cores" + f" of {there}" * (usable < there)
    if usable == 1 < there:
        return Finding(
            check="CPU",
            mark=Mark.warn,
            value=value,
            remedy="ask for more (--cpus-per-task, taskset): reading data takes one by itself",
        )
    return Finding(check="CPU", mark=Mark.ok, value=value)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    limit = _CGROUP_MEMORY.read_text().strip() if _CGROUP_MEMORY.is_file() else "max"
    total = min(memory.total, int(limit)) if limit.isdigit() else memory.total
    free = min(memory.available, total) / 2**30
    return Finding(
        check="memory",
        mark=Mark.warn if free < MEMORY_GIB else Mark.ok,
        value=f"{memory_size(free * 2**30, digits=1)} available of {memory_size(total, digits=1)}",
        limit=f"{MEMORY_GIB:g} GiB",
        remedy="megacpt plan says what a run needs; end other programs, or raise the job's --mem",
    )


def _gpus(found: Gpus | None) -> Iterator[Finding]:
    """No ranks are planned here, so that any number of GPUs is right."""
    yield from gpu_findings(found, num_needed=0)


def _slurm() -> Finding:
    there = [name for name in SLURM if shutil.which(name)]
    missing = [name for name in SLURM if name not in there]
    if not there:
        return Finding(check="Slurm", mark=Mark.ok, value="not here: runs start on this machine")
    if missing:
        return Finding(
            check="Slurm",
            mark=Mark.warn,
            value=f"{', '.join(there)}, but not {', '.join(missing)}",
            remedy="put Slurm's other client commands on PATH, or submit from a login node",
        )
    return Finding(check="Slurm", mark=Mark.ok, value=", ".join(there))


def _clock() -> Finding:
    """Without other nodes to ask, what the kernel knows of its clock."""
    synchronised = clock.is_synchronised()
    if synchronised is False:
        return Finding(
            check="clock",
            mark=Mark.warn,
            value="the kernel says that nothing keeps it right",
            remedy="run chrony or systemd-timesyncd; Slurm's munge refuses 5 minutes of difference",
        )
    value = "synchronised" if synchronised else "nothing is known of its synchronisation here"
    return Finding(check="clock", mark=Mark.ok, value=value)


def _network() -> Finding:
    found = address_finding(
        network.own_address(), interface=network.chosen_interface(), several=False
    )
    names = ", ".join(f"{name} {address}" for name, address in network.interfaces().items())
    return Finding(
        check=found.check,
        mark=found.mark,
        value=f"{found.value}; interfaces: {names or 'none'}",
        remedy=found.remedy and f"only for runs on several nodes: {found.remedy}",
    )


def _files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = most != resource.RLIM_INFINITY and most < OPEN_FILES
    return Finding(
        check="open files",
        mark=Mark.warn if few else Mark.ok,
        value="no limit" if most == resource.RLIM_INFINITY else f"up to {most:,} a process",
        limit=f"{OPEN_FILES:,}",
        remedy="raise the hard limit (ulimit -Hn, limits.conf, LimitNOFILE of slurmd)",
    )
