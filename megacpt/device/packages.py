# SPDX-License-Identifier: Apache-2.0
"""Packages that only some settings need: looked for before any process starts, not imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from megacpt.config.sections import OptimConfig, Optimizer
from megacpt.errors import EnvironmentError_
from megacpt.text import listed

MUON_PACKAGES = {"megatron-core": (0, 18), "emerging-optimizers": (0, 2)}


def require_packages(optim: OptimConfig) -> None:
    """EnvironmentError_ naming all that are missing or too old."""
    if optim.optimizer is not Optimizer.muon:
        return
    missing = [
        f"{name}>={minimum[0]}.{minimum[1]} (found: {found_version(name) or 'none'})"
        for name, minimum in MUON_PACKAGES.items()
        if _numbers(found_version(name)) < minimum
    ]
    if missing:
        raise EnvironmentError_(
            f"optim.optimizer=muon needs {listed(missing)}; use Python 3.12 or newer and "
            "pip install 'megacpt[muon]', or optim.optimizer=adamw."
        )


def found_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0.0").split(".")[:2])
