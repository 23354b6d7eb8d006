# SPDX-License-Identifier: Apache-2.0
"""The kinds of files that documents are read from, and how a file's name tells its kind."""

from __future__ import annotations

import enum
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from megacpt.corpus import containers
from megacpt.corpus.folders import LeftOut
from megacpt.errors import DataError


class FileFormat(enum.Enum):
    jsonl = "jsonl"
    """A JSON object a line, one document each."""
    json = "json"
    """One array of JSON objects, a document each; or one object."""
    csv = "csv"
    """A record a document, below a line with the names of the columns."""
    tsv = "tsv"
    parquet = "parquet"
    """A row a document."""
    text = "text"
    """A file a document."""


ENDINGS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".jl"), FileFormat.jsonl),
    ".json": FileFormat.json,
    ".csv": FileFormat.csv,
    **dict.fromkeys((".tsv", ".tab"), FileFormat.tsv),
    ".parquet": FileFormat.parquet,
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), FileFormat.text),
}
FIRST_LINE_BYTES = 1 << 20
"""Read of a .json file to tell lines of JSON from one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file as it was when the work was planned."""

    path: str
    format: FileFormat
    bytes: int
    modified_ns: int

    @property
    def ending(self) -> str:
        """Of its stream (.gz, .zst ...); of a file that is not packed nothing."""
        return containers.endings(Path(self.path))[1]


def format_of_named(path: Path) -> FileFormat:
    """The format of a file that was named: lines of JSON unless its ending says otherwise."""
    if converted_by := containers.refusal_of(path):
        raise DataError(
            f"{path} is of a kind that is not read here; {converted_by}. Or give --format, if its "
            "name misleads."
        )
    told = ENDINGS.get(containers.endings(path)[0])
    return _of_json(path) if told is FileFormat.json else told or FileFormat.jsonl


def known_format(path: Path, *, left_out: LeftOut) -> FileFormat | None:
    """The format of a file that a folder holds; None, and counted, where its name does not tell."""
    told = ENDINGS.get(containers.endings(path)[0])
    if converted_by := containers.refusal_of(path):
        left_out.add(f"*{path.suffix} ({converted_by})", path=path)
        return None
    if told is None:
        left_out.add(f"*{path.suffix}" if path.suffix else "without an ending", path=path)
    return _of_json(path) if told is FileFormat.json else told


def _of_json(path: Path) -> FileFormat:
    """Lines or one value: both are common in .json files. A first line that is whole tells."""
    ending = containers.endings(path)[1]
    with containers.told(str(path), ending=ending), ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        stream = containers.unpacked(raw, ending=ending, stack=stack)
        head = stream.read(FIRST_LINE_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    line, end, _ = head.partition(b"\n")
    if head.startswith(b"["):
        return FileFormat.json
    if not end and len(head) >= FIRST_LINE_BYTES - 3:
        return FileFormat.jsonl
    try:
        json.loads(line, parse_int=float)
    except (ValueError, RecursionError):
        return FileFormat.json
    return FileFormat.jsonl
