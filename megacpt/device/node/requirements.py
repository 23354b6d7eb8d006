# SPDX-License-Identifier: Apache-2.0
"""Installed packages against what megacpt declares, and against the versions it is tested with."""

from __future__ import annotations

import operator
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import megacpt
from megacpt.device.packages import found_version

_NAME = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$")
_CLAUSE = re.compile(r"\s*(~=|==|!=|<=|>=|<|>)\s*([\w.+*-]+)\s*")
_MARKER = re.compile(r"python_version\s*(<=|>=|<|>|==)\s*['\"]([\d.]+)['\"]")
_COMPARE: dict[str, Callable[[object, object], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """``wanted``: clauses as in ``>=2.6,<3``; empty takes any version."""

    name: str
    wanted: str


def declared() -> list[Requirement]:
    """What megacpt needs itself, without extras; empty where it is not installed as a package."""
    try:
        return list(_read(requires("megacpt") or ()))
    except PackageNotFoundError:
        return []


def declared_python() -> str:
    try:
        return str(metadata("megacpt").get("Requires-Python", ""))
    except PackageNotFoundError:
        return ""


def pins(file: Path | None = None) -> dict[str, str]:
    """Package -> version in constraints.txt of a checkout; nothing where that is not at hand."""
    path = file or Path(megacpt.__file__).parents[1] / "constraints.txt"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {r.name: r.wanted.removeprefix("==") for r in _read(lines)}


def broken(needs: Iterable[Requirement]) -> list[str]:
    """``torch 2.4.0 (wanted: >=2.6)`` of each that is missing or outside its range."""
    found = [(need, found_version(need.name)) for need in needs]
    return [
        f"{need.name} {version or 'is missing'} (wanted: {need.wanted or 'any'})"
        for need, version in found
        if version is None or not satisfies(version, need.wanted)
    ]


def satisfies(version: str, wanted: str) -> bool:
    """By the numbers of a release; what is no clause is met."""
    return all(_meets(version, *clause) for clause in _CLAUSE.findall(wanted))


def _meets(version: str, compare: str, bound: str) -> bool:
    own, other = _numbers(version), _numbers(bound)
    if compare == "~=" or bound.endswith(".*"):
        kept = len(other) - (compare == "~=")
        same = own[:kept] == other[:kept]
        return same and (compare != "~=" or own >= other)
    length = max(len(own), len(other))
    padded = [n + (0,) * (length - len(n)) for n in (own, other)]
    return _COMPARE[compare](*padded)


def _numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` -> (2, 13, 0); what follows the release is left out."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def _read(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        found = _NAME.match(line.partition("#")[0])
        if found is None:
            continue
        name, wanted, marker = found.groups()
        if marker is None or ("extra" not in marker and _applies(marker)):
            yield Requirement(name=name, wanted=wanted.strip())


def _applies(marker: str) -> bool:
    python = platform.python_version()
    return all(_meets(".".join(python.split(".")[:2]), *test) for test in _MARKER.findall(marker))
