# SPDX-License-Identifier: Apache-2.0
"""Lines that are no documents, set aside with their places, as ``megacpt tokenize`` does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from megacpt.corpus.documents import set_aside
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Corpus
from megacpt.files import json_line


def bad_lines(batch: DocumentBatch) -> list[dict[str, Any]]:
    """Of a batch; their places are in its extent of the piece."""
    return [{"extent": batch.passage.extent, **set_aside(bad)} for bad in batch.bad]


def told(errors: Mapping[str, int]) -> str:
    """What was left out, by what is wrong with it."""
    kinds = ", ".join(f"{num:,} {kind}" for kind, num in sorted(errors.items()))
    return f"{sum(errors.values()):,} bad lines left out ({kinds})"


def numbered(
    corpus: Corpus, *, numbers: Sequence[int], records: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[bytes]:
    """Lines of JSON with what pieces have kept in FOLDER, by file and line; ``numbers`` are in
    order."""
    before: Counter[tuple[str, int]] = Counter()
    for number, record in zip(numbers, records, strict=True):
        source, extents = corpus.pieces[number].source, corpus.pieces[number].extents
        for row in _rows(folder, name=record.get("bad")):
            file = extents[row.pop("extent")].file
            row["line"] += before[source.name, file]
            yield json_line({"file": source.files[file].path, **row})
        for extent, num_lines in zip(extents, record["num_lines"], strict=True):
            before[source.name, extent.file] += num_lines


def _rows(folder: Path, *, name: str | None) -> Iterator[dict[str, Any]]:
    if name is not None:
        with (folder / name).open("rb") as stream:
            yield from map(orjson.loads, stream)
