# SPDX-License-Identifier: Apache-2.0
"""Installed packages against what megacpt declares, and against the versions it is tested with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import megacpt
from megacpt.device.packages import found_version


def declared() -> list[Requirement]:
    """What megacpt needs itself, without extras; empty where it is not installed as a package."""
    try:
        needs = [Requirement(line) for line in requires("megacpt") or ()]
    except PackageNotFoundError:
        return []
    return [need for need in needs if _applies(need)]


def declared_python() -> SpecifierSet:
    """As in ``>=3.11,<3.14``; empty where megacpt is not installed as a package."""
    try:
        return SpecifierSet(metadata("megacpt")["Requires-Python"] or "")
    except PackageNotFoundError:
        return SpecifierSet()


def pins(file: Path | None = None) -> dict[str, Requirement]:
    """Package -> line of constraints.txt of a checkout; nothing where that is not at hand."""
    path = file or Path(megacpt.__file__).parents[1] / "constraints.txt"
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return {pin.name: pin for pin in map(Requirement, filter(None, lines)) if _applies(pin)}


def broken(needs: Iterable[Requirement]) -> list[str]:
    """``torch 2.4.0 (wanted: >=2.6)`` of each that is missing or outside its range."""
    found = [(need, found_version(need.name)) for need in needs]
    return [
        f"{need.name} {version or 'is missing'} (wanted: {need.specifier or 'any'})"
        for need, version in found
        if version is None or not satisfies(version, wanted=need.specifier)
    ]


def satisfies(version: str, *, wanted: SpecifierSet) -> bool:
    """A release candidate, as NVIDIA's images have them, may be in a range too."""
    return wanted.contains(version, prereleases=True)


def _applies(requirement: Requirement) -> bool:
    """To this Python, without extras."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
