# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a checkpoint are what its manifest says, by size or by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import xxhash

from megacpt.checkpoint.manifest import MANIFEST, CheckpointManifest, FileSum
from megacpt.errors import CheckpointError

CHANGED = "has other contents than were written (its checksum differs)"
_READERS = 4
"""Files read at once: a parallel file system gives more to several, and hashing takes a core."""


def quick(folder: Path, *, names: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the manifest or with sizes; empty: nothing. ``names``: only these files.

    Reads the manifest and no other file.
    """
    return _problems(folder, names=names, contents=False)


def full(folder: Path, *, names: Sequence[str] | None = None) -> list[str]:
    """As ``quick``, and every byte is read and compared with its checksum."""
    return _problems(folder, names=names, contents=True)


def files_to_read(manifest: CheckpointManifest, *, rank: int, ranks: int) -> list[str]:
    """The names that ``rank`` of ``ranks`` verifies; all together get each once."""
    largest_first = sorted(manifest.files, key=lambda name: (-manifest.files[name].bytes, name))
    return largest_first[rank::ranks]


def sums_of(folder: Path, *, names: Sequence[str] | None = None) -> dict[str, FileSum]:
    """Size and checksum of the files as they are now; all but the manifest, if no names are given.

    An ``OSError`` where one of ``names`` is not there.
    """
    if names is None:
        paths = (p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        names = sorted(str(p.relative_to(folder)) for p in paths)
    return {
        name: FileSum(bytes=(folder / name).stat().st_size, xxh128=_xxh128(folder / name))
        for name in names
    }


def said_of(folder: Path, *, error: CheckpointError) -> str:
    """The message of ``error`` without the folder, for where that was named before."""
    return str(error).removeprefix(f"{folder}: ").removesuffix(".")


def _problems(folder: Path, *, names: Sequence[str] | None, contents: bool) -> list[str]:
    try:
        manifest = CheckpointManifest.read(folder)
    except CheckpointError as error:
        return [said_of(folder, error=error)]
    wanted = list(manifest.files) if names is None else names
    check = partial(_problem, folder, manifest=manifest, contents=contents)
    if contents:
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(lambda name: check(name=name), wanted))
    else:
        found = [check(name=name) for name in wanted]
    return [f"{n} {what}" for n, what in zip(wanted, found, strict=True) if what is not None]


def _problem(
    folder: Path, *, name: str, manifest: CheckpointManifest, contents: bool
) -> str | None:
    path, written = folder / name, manifest.files[name]
    try:
        size = path.stat().st_size
        if size != written.bytes:
            return f"has {size} bytes but was written with {written.bytes}"
        if contents and _xxh128(path) != written.xxh128:
            return CHANGED
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _xxh128(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
