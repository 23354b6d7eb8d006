# SPDX-License-Identifier: Apache-2.0
"""Arrays of all documents of a corpus in files of pieces, written batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megacpt.files import aside_of

Array = npt.NDArray[Any]


class PieceFiles:
    """STEM.NAME for each of some names; there when all are whole."""

    def __init__(self, stem: Path, *, kinds: Mapping[str, type]) -> None:
        self._stem, self._kinds = stem, kinds
        self._files: dict[str, BinaryIO] = {name: self._aside(name).open("wb") for name in kinds}

    def _aside(self, name: str) -> Path:
        return self._stem.with_suffix(f".{name}.partial")

    def add(self, values: Mapping[str, Array]) -> None:
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(values[name], dtype=self._kinds[name]).tobytes())

    def finish(self) -> list[str]:
        """Names of the files."""
        names = []
        for name, file in self._files.items():
            file.close()
            names.append(self._aside(name).replace(self._stem.with_suffix(f".{name}")).name)
        return names


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceOfArrays:
    """The files of one piece, mapped."""

    stem: Path
    kinds: Mapping[str, type]
    first: int
    """Number of its first document in the corpus."""
    starts: Mapping[str, int]
    """Number in the corpus of the first entry of each of its arrays, where entries are counted."""

    def __getitem__(self, name: str) -> Array:
        path = self.stem.with_suffix(f".{name}")
        if not path.stat().st_size:
            return np.empty(0, self.kinds[name])
        return np.asarray(np.memmap(path, dtype=self.kinds[name], mode="r"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceArrays:
    """Those of all pieces, of which ``records`` count the entries."""

    folder: Path
    kinds: Mapping[str, type]
    records: Sequence[Mapping[str, Any]]

    def total(self, name: str) -> int:
        return sum(int(record[name]) for record in self.records)

    def pieces(self) -> Iterator[PieceOfArrays]:
        """Those with documents."""
        counted = [name for name in self.kinds if all(name in record for record in self.records)]
        firsts = self.before("documents")
        starts = {name: self.before(name) for name in counted}
        for number, record in enumerate(self.records):
            if record["documents"]:
                yield PieceOfArrays(
                    stem=self.folder / f"{number:05}",
                    kinds=self.kinds,
                    first=firsts[number],
                    starts={name: before[number] for name, before in starts.items()},
                )

    def whole(self, name: str) -> Array:
        """Of all documents, to be looked up in any order: one file, as few may be open at once."""
        path = self.folder / f"all.{name}"
        # Other machines may have theirs open, with the same bytes.
        aside = aside_of(path)
        with aside.open("wb") as stream:
            for piece in self.pieces():
                stream.write(piece[name].data)
        aside.replace(path)
        if not path.stat().st_size:
            return np.empty(0, self.kinds[name])
        return np.asarray(np.memmap(path, dtype=self.kinds[name], mode="r"))

    def before(self, name: str) -> list[int]:
        """Number of the first of each piece, and of all."""
        return [0, *accumulate(int(record[name]) for record in self.records)]
