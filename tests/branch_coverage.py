# SPDX-License-Identifier: Apache-2.0
"""Branch coverage of megacpt, printed after the tests: `make test COVERAGE=1`.

A plugin of pytest (`-p tests.branch_coverage`), which measures from its import on. Slipcover takes
its probes out of code that has run, so that a loop costs what it costs without. Counted is what
pytest's workers and the ranks of `run_on_ranks` run; the processes of `megacpt` commands are not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import slipcover
from slipcover.importer import SlipcoverMetaPathFinder

FOLDER = "MEGACPT_COVERAGE_FOLDER"
"""Variable: the folder in which each process leaves what it has run."""
Branch = tuple[int, int]
"""From a line to the next."""
PACKAGE = Path(__file__).parents[1] / "megacpt"


class _OwnCode(SlipcoverMetaPathFinder):
    """Asks the other finders for megacpt alone: megacpt's hook for megatron.core asks all, too."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_own = fullname.partition(".")[0] == PACKAGE.name
        return super().find_spec(fullname, path, target) if is_own else None


def measure() -> slipcover.Slipcover:
    """Note from now on what is imported of the package and run."""
    sources = [str(PACKAGE)]
    noted = slipcover.Slipcover(branch=True, source=sources)
    sys.meta_path.insert(0, _OwnCode(noted, slipcover.FileMatcher(sources=sources)))
    return noted


os.environ.setdefault(FOLDER, tempfile.mkdtemp(prefix="megacpt-coverage-"))
_NOTED = measure()


def write_measured() -> None:
    """The branches that this process has taken, by file; which there are is found once, at the end,
    as that takes seconds."""
    taken: dict[str, set[Branch]] = defaultdict(set)
    for places in (_NOTED.all_seen, _NOTED.newly_seen):
        for name, found in list(places.items()):
            taken[name] |= {place for place in found if isinstance(place, tuple)}
    file = Path(os.environ[FOLDER]) / f"{os.getpid()}.json"
    file.write_text(json.dumps({name: sorted(found) for name, found in taken.items()}))


def by_room(folder: Path) -> dict[str, tuple[int, int]]:
    """Room -> branches taken by any process, branches in all."""
    taken: dict[Path, set[Branch]] = defaultdict(set)
    for file in folder.glob("*.json"):
        for name, found in json.loads(file.read_text()).items():
            taken[Path(name)] |= {(first, then) for first, then in found}
    rooms: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, found in _NOTED.get_coverage()["files"].items():
        branches = {tuple(b) for b in found["executed_branches"] + found["missing_branches"]}
        if branches:
            path = Path.cwd() / name
            some, all_of = rooms[room := path.relative_to(PACKAGE).parts[0]]
            rooms[room] = (some + len(branches & taken[path]), all_of + len(branches))
    return dict(rooms)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    write_measured()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Called where the workers have ended."""
    rooms = by_room(Path(os.environ[FOLDER]))
    taken, total = (sum(column) for column in zip(*rooms.values(), strict=True))
    say = terminalreporter.write_line
    say(f"branches of megacpt that were taken: {taken / total:.1%} of {total:,}")
    for room, (some, all_of) in sorted(rooms.items(), key=lambda item: item[1][0] / item[1][1]):
        say(f"  {some / all_of:6.1%} of {all_of:5,}  {room}")
