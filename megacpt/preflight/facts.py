# SPDX-License-Identifier: Apache-2.0
"""What a machine has, gathered in a few seconds without torch, and sent to the others as JSON."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import shutil
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

import megacpt
from megacpt.device.environment import num_cores
from megacpt.device.packages import found_version
from megacpt.preflight import disk, gpus, network
from megacpt.preflight.disk import Disk
from megacpt.preflight.gpus import Gpu, Gpus

SAME_EVERYWHERE = ("torch", "megatron-core", "transformers", "numpy")
TRANSFORMER_ENGINE = ("transformer-engine", "transformer-engine-torch", "transformer_engine")
SHARED_MEMORY = Path("/dev/shm")
NONE = "none"


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gather(folder: Path) -> NodeFacts:
    """``folder``: where the run writes; it must exist."""
    found = gpus.query()
    return NodeFacts(
        host=network.node_name(),
        versions=versions() | {"NVIDIA driver": found.driver if found else NONE},
        cores=num_cores(),
        memory_gib=psutil.virtual_memory().total / 2**30,
        shm_free_mib=shm_free_mib(),
        disk=disk.measure(folder),
        gpus=found,
        ports=network.infiniband_ports(),
        machine=socket.gethostname(),
        address=network.own_address(),
        interface=network.chosen_interface(),
    )


def from_json(tree: dict[str, Any]) -> NodeFacts:
    found = tree["gpus"]
    if found is not None:
        found = Gpus(**found | {"gpus": [Gpu(**gpu) for gpu in found["gpus"]]})
    return NodeFacts(**tree | {"disk": Disk(**tree["disk"]), "gpus": found})


def versions() -> dict[str, str]:
    """From metadata and files: importing torch for this would take seconds."""
    engine = next((v for name in TRANSFORMER_ENGINE if (v := found_version(name))), NONE)
    return {
        "python": platform.python_version(),
        "megacpt": f"{megacpt.__version__} (code {code_digest()})",
        **{name: found_version(name) or NONE for name in SAME_EVERYWHERE},
        "transformer-engine": engine,
    }


def code_digest() -> str:
    """Of megacpt's own source: checkouts of the same version can differ."""
    root = Path(megacpt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def torch_cuda() -> str | None:
    """The CUDA version torch was built for, read from its files; None for a CPU build."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    built_for = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return built_for.group(1) if built_for else None


def shm_free_mib(folder: Path = SHARED_MEMORY) -> float | None:
    return shutil.disk_usage(folder).free / 2**20 if folder.is_dir() else None
