# SPDX-License-Identifier: Apache-2.0
"""The files in a folder and below it, links followed, and an account of what is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from megacpt.corpus.documents import QUARANTINE
from megacpt.errors import DataError

NAMED = 2
"""Files that the account of a reason names."""
BOOKKEEPING = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What the library datasets writes beside a data set."""
RECORDS = {"curation.json", "decontamination.json"}


class LeftOut:
    """Files that are not taken, by the reason."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, *, path: Path) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        named = self._paths.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(path)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def told(self, *, before: str = "") -> str:
        """``2 *.pdf (...): a.pdf, b.pdf; 1 hidden: .c``, or nothing if nothing is left out."""
        parts = []
        for reason, count in self._counts.items():
            names = ", ".join(path.name for path in self._paths[reason])
            parts.append(f"{count:,} {reason}: {names}{', ...' * (count > NAMED)}")
        return before * bool(parts) + "; ".join(parts)


def files_in(folder: Path, *, left_out: LeftOut) -> list[Path]:
    """All files that may hold documents, by name."""
    files = [
        path for path in _below(folder, left_out=left_out) if _is_file(path, left_out=left_out)
    ]
    return sorted(path for path in files if not _is_aside(path, left_out=left_out))


def _below(folder: Path, *, left_out: LeftOut) -> Iterator[Path]:
    """Everything but folders; each folder once, however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        # Links last: a folder that is here goes by its own name.
        within = folders.pop() if folders else links.pop(0)
        about = within.stat()
        if (about.st_dev, about.st_ino) in seen:
            left_out.add("links to folders that are here already", path=within)
            continue
        seen.add((about.st_dev, about.st_ino))
        for path in _entries(within):
            if path.name.startswith("."):
                left_out.add("hidden", path=path)
            elif not path.is_dir():
                yield path
            elif path.name.endswith(".pieces"):
                left_out.add("work folders of a tokenization", path=path)
            else:
                (links if path.is_symlink() else folders).append(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(
            f"folder {folder} cannot be read: {error.strerror}; allow it, or name the files."
        ) from error


def _is_file(path: Path, *, left_out: LeftOut) -> bool:
    if not path.is_file():
        reason = "links that lead nowhere" if path.is_symlink() else "neither file nor folder"
        left_out.add(reason, path=path)
    return path.is_file()


def _is_aside(path: Path, *, left_out: LeftOut) -> bool:
    """Left by an earlier run of this tool, or about the documents rather than one."""
    reason = None
    if path.name.endswith(f".{QUARANTINE}"):
        reason = "lines that were set aside"
    elif path.suffix in (".json", ".bin", ".idx") and path.with_suffix(".idx").exists():
        reason = "files of a token shard"
    elif path.name in BOOKKEEPING:
        reason = "records of the library datasets"
    elif path.name in RECORDS:
        reason = "records of a curation"
    elif path.stem.lower() == "readme":
        reason = "about the rest; name it to take it"
    if reason:
        left_out.add(reason, path=path)
    return reason is not None
