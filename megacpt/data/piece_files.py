# SPDX-License-Identifier: Apache-2.0
"""The files of one piece: written aside, published whole."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from megacpt.data.documents import BadLine, OnError
from megacpt.data.encode import LONG_TOKENS, EncodedBlock
from megacpt.errors import EnvironmentError_

KEPT_BYTES = 1 << 20
"""Of a line that is set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRecord:
    """What NNNNN.json says."""

    backend: str
    on_error: str
    documents: int
    tokens: int
    empty_documents: int
    long_documents: int
    errors: dict[str, int]
    checked_documents: int
    checked_bytes: int
    bytes_read: int
    bin_sha256: str
    lens_sha256: str
    num_lines: list[int] = field(default_factory=list)
    """Of each part."""
    leaves: list[list[str]] = field(default_factory=list)
    """Of each part: checksums as in data.tree_hash."""


COUNTS = (
    "documents",
    "tokens",
    "empty_documents",
    "long_documents",
    "checked_documents",
    "checked_bytes",
    "bytes_read",
)


class PieceWriter:
    """Takes the blocks of a piece in order; ``finish`` publishes it, ``discard`` forgets it.

    ``stem`` is the path of the piece's files without their endings.
    """

    def __init__(self, stem: Path, *, backend: str, on_error: OnError) -> None:
        self._stem, self._backend, self._on_error = stem, backend, on_error
        # Of its own: a task and the one that replaces it may write the same piece for a moment.
        self._token = secrets.token_hex(4)
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._errors: Counter[str] = Counter()
        self._digests = {"bin": hashlib.sha256(), "lens": hashlib.sha256()}
        self._files: dict[str, BinaryIO] = {}
        self.is_finished = False
        with full_disk_told(stem.parent):
            for kind in self._digests:
                self._open(kind)

    def _open(self, kind: str) -> None:
        self._files[kind] = self._aside(kind).open("wb", buffering=0)

    def _aside(self, kind: str) -> Path:
        return Path(f"{self._stem}.{kind}.{self._token}.partial")

    def add(self, encoded: EncodedBlock) -> None:
        with full_disk_told(self._stem.parent):
            for kind, content in (("bin", encoded.tokens), ("lens", encoded.lengths)):
                view = content.data.cast("B")
                self._digests[kind].update(view)
                _write(self._files[kind], view)
            self._set_aside(encoded)
        self._errors.update(bad.kind.value for bad in encoded.bad)
        numbers = (
            *(encoded.lengths.size, encoded.tokens.size, encoded.empty_documents),
            int((encoded.lengths > LONG_TOKENS).sum()),
            *(encoded.checked_documents, encoded.checked_bytes, encoded.block.bytes_read),
        )
        self._counts.update(dict(zip(COUNTS, numbers, strict=True)))

    def _set_aside(self, encoded: EncodedBlock) -> None:
        if not encoded.bad or self._on_error is not OnError.quarantine:
            return
        if "bad" not in self._files:
            self._open("bad")
        lines = (json.dumps(_kept(bad, part=encoded.block.part)) + "\n" for bad in encoded.bad)
        _write(self._files["bad"], memoryview("".join(lines).encode()))

    def finish(self, *, num_lines: list[int], leaves: list[list[str]]) -> PieceRecord:
        record = PieceRecord(
            backend=self._backend,
            on_error=self._on_error.value,
            errors=dict(sorted(self._errors.items())),
            bin_sha256=self._digests["bin"].hexdigest(),
            lens_sha256=self._digests["lens"].hexdigest(),
            num_lines=num_lines,
            leaves=leaves,
            **self._counts,
        )
        with full_disk_told(self._stem.parent):
            self._open("json")
            _write(self._files["json"], memoryview(json.dumps(asdict(record)).encode()))
            Path(f"{self._stem}.json").unlink(missing_ok=True)
            for kind, file in self._files.items():
                file.close()
                self._aside(kind).replace(f"{self._stem}.{kind}")
        self.is_finished = True
        return record

    def discard(self) -> None:
        for kind, file in self._files.items() if not self.is_finished else ():
            with suppress(OSError):
                file.close()
                self._aside(kind).unlink(missing_ok=True)


def _write(file: BinaryIO, content: memoryview) -> None:
    """All of it: an unbuffered file may take a part."""
    while len(content):
        content = content[file.write(content) :]


def _kept(bad: BadLine, *, part: int) -> dict[str, Any]:
    """A line of NNNNN.bad; the merge puts file and number of the line in the place of the part."""
    content = bad.content[:KEPT_BYTES]
    found = {"part": part, "line": bad.line, "kind": bad.kind.value, "problem": bad.problem}
    if len(bad.content) > KEPT_BYTES:
        found["cut_at_bytes"] = KEPT_BYTES
    try:
        return found | {"content": content.decode("utf-8")}
    except UnicodeDecodeError:
        return found | {"content_base64": base64.b64encode(content).decode()}


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Say what to do when the system refuses to write."""
    try:
        yield
    except OSError as error:
        raise EnvironmentError_(
            f"{folder} cannot be written: {error.strerror}. Free space and start the same command "
            "again: it goes on from the finished pieces. (Or remove that folder.)"
        ) from error
