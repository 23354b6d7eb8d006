# SPDX-License-Identifier: Apache-2.0
"""Packages that only some settings need: looked for before any process starts, not imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from megacpt.errors import EnvironmentError_
from megacpt.text import listed


def require_packages(optimizer: str, *, packages: Mapping[str, tuple[int, int]]) -> None:
    """EnvironmentError_ naming all that are missing or too old."""
    missing = [
        f"{name}>={minimum[0]}.{minimum[1]} (found: {found_version(name) or 'none'})"
        for name, minimum in packages.items()
        if _numbers(found_version(name)) < minimum
    ]
    if missing:
        raise EnvironmentError_(
            f"optim.optimizer={optimizer} needs {listed(missing)}; use Python 3.12 or newer and "
            f"pip install 'megacpt[{optimizer}]', or optim.optimizer=adamw."
        )


def found_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0.0").split(".")[:2])
