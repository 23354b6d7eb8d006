# SPDX-License-Identifier: Apache-2.0
"""Which weights a Hugging Face folder holds, as one number: adapters are of these and no others.

It is of tensors and not of files, so that a folder may be renamed, copied or cut into other files.
Of each tensor the name, type, shape and three blocks count; reading all would take minutes where a
start takes seconds. Training changes every block of a weight, and every one that was damaged is for
whoever checks files to find.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from megacpt.config.sections import Init, ModelConfig
from megacpt.families.stored.files import Stored, read_stored

BLOCK_BYTES = 4096
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Of a tensor's bytes in its file."""

    name: str
    start: int
    end: int


def base_of_run(model: ModelConfig, *, adapter: bool) -> str | None:
    """The fingerprint of what a run's adapter is trained beside; ``None``: there is no adapter, or
    the weights come from the run's own seed."""
    if not adapter or model.init is Init.random:
        return None
    return fingerprint(Path(str(model.path)))


def fingerprint(folder: Path) -> str:
    """Hexadecimal, 128 bits; ModelError says what is wrong with the folder's files."""
    stored = read_stored(folder)
    sums = {name: xxh for file in _files(stored) for name, xxh in _sums(file, stored=stored)}
    whole = xxhash.xxh3_128()
    for name, found in sorted(stored.items()):
        said = [name, found.dtype, list(found.shape), sums[name]]
        whole.update(json.dumps(said).encode())
    return whole.hexdigest()


def _files(stored: Mapping[str, Stored]) -> list[Path]:
    return sorted({found.file for found in stored.values()})


def _sums(path: Path, *, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """In the order of the file, of those tensors that are read from it."""
    with path.open("rb") as file:
        for place in _places(file):
            if place.name in stored and stored[place.name].file == path:
                yield place.name, _sampled(file, place=place)


def _places(file: BinaryIO) -> list[_Place]:
    """By the head that a safetensors file begins with; ``read_stored`` has checked it."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    head = json.loads(file.read(length))
    begin = _LENGTH_BYTES + length
    offsets = {n: found["data_offsets"] for n, found in head.items() if n != "__metadata__"}
    places = [_Place(name=n, start=begin + s, end=begin + e) for n, (s, e) in offsets.items()]
    return sorted(places, key=lambda place: place.start)


def _sampled(file: BinaryIO, *, place: _Place) -> str:
    """Of the first, a middle and the last block; small tensors are read whole."""
    size = place.end - place.start
    starts = [0, (size - BLOCK_BYTES) // 2, size - BLOCK_BYTES]
    blocks = [(start, BLOCK_BYTES) for start in starts] if size > 3 * BLOCK_BYTES else [(0, size)]
    found = xxhash.xxh3_128()
    for start, length in blocks:
        found.update(os.pread(file.fileno(), length, place.start + start))
    return found.hexdigest()
