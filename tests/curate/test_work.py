# SPDX-License-Identifier: Apache-2.0
"""What is found of an interrupted run is used again where it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megacpt.corpus.inputs import find_files
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Corpus, Kind, TextSource
from megacpt.curate.work import Reading, make_pieces

PIECES = 3


class Upper:
    """Writes the texts in large letters."""

    def __init__(self, stem: Path) -> None:
        self._path, self._texts = stem.with_suffix(".upper"), list[str]()

    def work(self, batch: DocumentBatch) -> list[str]:
        return [document.text.upper() for document in batch.documents]

    def settle(self, made: list[str]) -> None:
        self._texts += made

    def finish(self) -> Mapping[str, Any]:
        self._path.write_text("\n".join(self._texts))
        return {"files": [self._path.name]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    def to_json(self) -> Mapping[str, Any]:
        return {}

    def open(self) -> Callable[[Path], Upper]:
        return Upper


def corpus(folder: Path) -> Corpus:
    for number in range(PIECES):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"text {number}"}) + "\n")
    files = tuple(find_files([str(folder)], file_format=None, spool=folder / "spool"))
    return Corpus(sources=(TextSource(name="a", kind=Kind.domain, files=files),), piece_size=19)


@pytest.mark.parametrize("damage", ["shortened", "gone", "record"])
def test_what_a_power_cut_has_shortened_is_made_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "raw").mkdir()
    raw, work = corpus(tmp_path / "raw"), tmp_path / "work"
    first = make_pieces(raw, settings=Settings(), folder=work, reading=Reading())
    assert len(first) == PIECES
    files = sorted(work.glob("*.upper"))
    made = [path.read_text() for path in files]
    for path in files:
        path.write_text(path.read_text().lower())  # To be seen where it is not made again.
    if damage == "gone":
        files[1].unlink()
    else:
        path = files[1] if damage == "shortened" else files[1].with_suffix(".json")
        path.write_bytes(path.read_bytes()[:-3])
    again = make_pieces(raw, settings=Settings(), folder=work, reading=Reading())
    assert again == first
    assert [path.read_text() for path in files] == [made[0].lower(), made[1], made[2].lower()]
