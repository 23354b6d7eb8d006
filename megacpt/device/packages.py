# SPDX-License-Identifier: Apache-2.0
"""Installed packages, none imported: what settings and megacpt need, and what it is tested with."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import megacpt
from megacpt.errors import EnvironmentError_
from megacpt.text import listed


def require_packages(setting: str, *, packages: Mapping[str, tuple[int, int]], remedy: str) -> None:
    """EnvironmentError_ naming all that are missing or too old."""
    missing = [
        f"{name}>={minimum[0]}.{minimum[1]} (found: {found_version(name) or 'none'})"
        for name, minimum in packages.items()
        if _numbers(found_version(name)) < minimum
    ]
    if missing:
        raise EnvironmentError_(f"{setting} needs {listed(missing)}; {remedy}.")


def found_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0.0").split(".")[:2])


def torch_cuda() -> str | None:
    """The CUDA version torch was built for, read from its files; None for a CPU build."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    built_for = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return built_for.group(1) if built_for else None


def declared() -> list[Requirement]:
    """What megacpt needs itself, without extras; empty where it is not installed as a package."""
    try:
        needs = [Requirement(line) for line in requires("megacpt") or ()]
    except PackageNotFoundError:
        return []
    return [need for need in needs if _applies(need)]


def declared_python() -> SpecifierSet:
    """Such as ``>=3.11,<3.14``; empty where megacpt is not installed as a package."""
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
    """Whether it is meant for this Python, without extras."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
