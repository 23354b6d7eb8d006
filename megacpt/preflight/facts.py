# SPDX-License-Identifier: Apache-2.0
"""What a machine has, gathered in a few seconds without torch, and sent to the others as JSON."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import megacpt
from megacpt.device.environment import chosen_interface, node_name, num_cores
from megacpt.device.packages import found_version
from megacpt.preflight import gpus, network
from megacpt.preflight.gpus import Gpu, Gpus

SAME_EVERYWHERE = ("torch", "megatron-core", "transformers", "numpy")
TRANSFORMER_ENGINE = ("transformer-engine", "transformer-engine-torch", "transformer_engine")
SHARED_MEMORY = Path("/dev/shm")
NONE = "none"
WRITE_BYTES = 2**21
"""Written and forced to the disk at once: a slow disk is found after one write, not after all."""
TOTAL_BYTES = 2**24
LIMIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A folder's free space and speed."""

    folder: str
    free_gib: float = 0.0
    written_mib_s: float = 0.0
    """Of what must survive a power cut, as checkpoints do."""
    clock_ahead_s: float = 0.0
    """Of the file server, by the time it gives a file; a local disk has this machine's clock."""
    problem: str = ""
    """Why nothing could be written, in the system's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """``versions`` must be the same on all nodes of a run; ``none`` is not installed."""

    host: str
    versions: dict[str, str]
    cores: int
    memory_gib: float
    shm_free_mib: float | None
    """None on systems without /dev/shm."""
    disk: Disk
    gpus: Gpus | None = None
    ports: dict[str, str] = field(default_factory=dict)
    """InfiniBand ports and their states."""
    machine: str = ""
    """Its own host name; several Slurm nodes can be one machine, in a test."""
    address: str | None = None
    """What that name stands for."""
    interface: str | None = None
    """The network interface the user has chosen."""


def gather(folder: Path) -> NodeFacts:
    """``folder``: where the run writes; it must exist."""
    found = gpus.query()
    return NodeFacts(
        host=node_name(),
        versions=_versions() | {"NVIDIA driver": found.driver if found else NONE},
        cores=num_cores(),
        memory_gib=psutil.virtual_memory().total / 2**30,
        shm_free_mib=shm_free_mib(),
        disk=measure_disk(folder),
        gpus=found,
        ports=network.infiniband_ports(),
        machine=socket.gethostname(),
        address=network.own_address(),
        interface=chosen_interface(),
    )


def facts_from_json(tree: dict[str, Any]) -> NodeFacts:
    found = tree["gpus"]
    if found is not None:
        found = Gpus(**found | {"gpus": [Gpu(**gpu) for gpu in found["gpus"]]})
    return NodeFacts(**tree | {"disk": Disk(**tree["disk"]), "gpus": found})


def _versions() -> dict[str, str]:
    """From metadata and files: importing torch for this would take seconds."""
    engine = next((v for name in TRANSFORMER_ENGINE if (v := found_version(name))), NONE)
    return {
        "python": platform.python_version(),
        "megacpt": f"{megacpt.__version__} (code {_code_digest()})",
        **{name: found_version(name) or NONE for name in SAME_EVERYWHERE},
        "transformer-engine": engine,
    }


def _code_digest() -> str:
    """Digest of megacpt's own source: checkouts of the same version can differ."""
    root = Path(megacpt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def shm_free_mib() -> float | None:
    return shutil.disk_usage(SHARED_MEMORY).free / 2**20 if SHARED_MEMORY.is_dir() else None


def measure_disk(folder: Path, *, total_bytes: int = TOTAL_BYTES, limit_s: float = LIMIT_S) -> Disk:
    """Writes to a file without a name, so that nothing is left behind whatever happens."""
    try:
        free_gib = shutil.disk_usage(folder).free / 2**30
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            rate, ahead_s = _write(file.fileno(), total_bytes=total_bytes, limit_s=limit_s)
    except OSError as error:
        return Disk(folder=str(folder), problem=error.strerror or str(error))
    return Disk(
        folder=str(folder), free_gib=free_gib, written_mib_s=rate / 2**20, clock_ahead_s=ahead_s
    )


def _write(handle: int, *, total_bytes: int, limit_s: float) -> tuple[float, float]:
    """Bytes a second, and how far the file's time is ahead of ours."""
    # Random: file systems that compress, or skip zeros, would look too fast.
    content = os.urandom(WRITE_BYTES)
    written = 0
    began_at, started_s = time.time(), time.perf_counter()
    while written < total_bytes and time.perf_counter() - started_s < limit_s:
        written += os.write(handle, content)
        os.fsync(handle)
    rate = written / (time.perf_counter() - started_s)
    # The file has a time between these two; a server may note when data comes, not leaves.
    # Kernels count file times in ticks, so what is a few milliseconds early is not.
    file_at, ended_at = os.fstat(handle).st_mtime, time.time()
    return rate, max(file_at - ended_at, 0.0) + min(file_at - began_at + 0.02, 0.0)
