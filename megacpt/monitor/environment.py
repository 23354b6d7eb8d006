# SPDX-License-Identifier: Apache-2.0
"""RUN_DIR/environment.json: which software and which machine a run's numbers come from."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import psutil

import megacpt
from megacpt.device.environment import num_cores
from megacpt.files import write_text

PACKAGES = ("megacpt", "torch", "megatron-core", "transformer-engine", "transformers", "numpy")


class Environment(TypedDict):
    """``versions``: package -> version, only what is installed. ``cores``: usable by a process."""

    python: str
    versions: dict[str, str]
    platform: str
    host: str
    processor: str
    cores: int
    memory_gib: float
    device: str
    ranks: int
    commit: str | None
    """Of the checkout megacpt runs from, with ``+changes`` where files differ from it."""
    settings: FoundSettings


class VariableRecord(TypedDict):
    value: str
    set_by: str
    """megacpt, kernels.environment (of the configuration), environment (the user's own) or
    library (by itself, after the start)."""


class FoundSettings(TypedDict, total=False):
    """How the first rank runs, as it found it."""

    kernels: dict[str, bool]
    """Fused kernels and overlaps of megatron-core."""
    variables: dict[str, VariableRecord]
    """The environment of the libraries below."""
    mfu_of: str
    """The peak that ``mfu`` in metrics.jsonl is a share of."""
    arithmetic: str
    """The precision in words; an emulation is called one."""
    adapter: str
    """What is trained, where that is not all weights."""


def environment(*, device: str, ranks: int, settings: FoundSettings | None = None) -> Environment:
    """``device``: what the ranks run on, in words."""
    return {
        "python": platform.python_version(),
        "versions": installed_versions(PACKAGES),
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": processor(Path("/proc/cpuinfo")),
        "cores": num_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device,
        "ranks": ranks,
        "commit": commit_of(Path(megacpt.__file__)),
        "settings": settings or {},
    }


def write_environment(
    run_dir: Path, *, device: str, ranks: int, settings: FoundSettings | None = None
) -> None:
    facts = environment(device=device, ranks=ranks, settings=settings)
    write_text(run_dir / "environment.json", text=json.dumps(facts, indent=2) + "\n")


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """From the packages' metadata: importing torch for this would take seconds."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    # A checkout that is run in place has no metadata.
    return {"megacpt": megacpt.__version__} | versions


def processor(cpuinfo: Path) -> str:
    """The processor's name as Linux states it, else what Python knows."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit_of(file: Path) -> str | None:
    """The commit of the repository that tracks ``file``; None where none does or git is absent."""
    folder = str(file.resolve().parent)
    if _git("ls-files", "--error-unmatch", file.name, folder=folder) is None:
        return None
    commit = _git("rev-parse", "HEAD", folder=folder)
    changes = _git("status", "--porcelain", "--untracked-files=no", folder=folder)
    return commit and commit + ("+changes" if changes else "")


def _git(*arguments: str, folder: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
