# SPDX-License-Identifier: Apache-2.0
"""Pieces a process has finished: their tokens one after another in one file, a record of each.

NAME.bin, NAME.lens, NAME.mask and NAME.bad only grow; NAME is drawn for each process and run, so no
two ever write the same file. A piece counts when its record NNNNN.json has been given its name;
what follows the last recorded piece in the files is of no meaning. One process that made all pieces
has thereby written the whole .bin of the shard already, which ``join`` then need not copy. Pieces
all of which is learned have nothing in NAME.mask.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megacpt.corpus.documents import OnError, set_aside
from megacpt.errors import EnvironmentError_
from megacpt.shards.tokenize.encode import LONG_TOKENS, EncodedPassage
from megacpt.shards.writer import MASK

KINDS = ("bin", "lens", MASK, "bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRecord:
    """What NNNNN.json says."""

    log: str
    starts: dict[str, int]
    stops: dict[str, int]
    """Place of the piece in the files of the log, by their kind, in bytes."""
    digests: dict[str, str]
    """sha256 of each of these files up to the end of the piece."""
    backend: str
    on_error: str
    documents: int = 0
    tokens: int = 0
    empty_documents: int = 0
    long_documents: int = 0
    checked_documents: int = 0
    checked_bytes: int = 0
    bytes_read: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    num_lines: list[int] = field(default_factory=list)
    """Lines of each extent."""
    leaves: list[list[str]] = field(default_factory=list)
    """Checksums of each extent, as in megacpt.corpus.checksum."""

    @property
    def is_masked(self) -> bool:
        """Whether any of its tokens are not learned."""
        return self.starts.get(MASK, 0) < self.stops.get(MASK, 0)


class PieceLog:
    """Takes the passages of one piece after another, in order."""

    def __init__(self, folder: Path, *, backend: str, on_error: OnError) -> None:
        self.name = secrets.token_hex(8)
        self._folder, self._backend, self._on_error = folder, backend, on_error
        self._files: dict[str, BinaryIO] = {}
        self._digests = {kind: hashlib.sha256() for kind in KINDS}
        self._sizes = dict.fromkeys(KINDS, 0)
        self._starts = dict(self._sizes)
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def add(self, encoded: EncodedPassage) -> None:
        with full_disk_told(self._folder):
            self._append("bin", content=encoded.tokens.data.cast("B"))
            self._append("lens", content=encoded.lengths.data.cast("B"))
            self._append_mask(encoded)
            if encoded.bad and self._on_error is OnError.quarantine:
                extent = encoded.passage.extent
                # The join replaces the number of the extent by its file.
                kept = ({"part": extent, **set_aside(bad)} for bad in encoded.bad)
                lines = (json.dumps(bad) + "\n" for bad in kept)
                self._append("bad", content=memoryview("".join(lines).encode()))
        self._errors.update(bad.kind.value for bad in encoded.bad)
        self._counts.update(
            documents=encoded.lengths.size,
            tokens=encoded.tokens.size,
            empty_documents=encoded.empty_documents,
            long_documents=int((encoded.lengths > LONG_TOKENS).sum()),
            checked_documents=encoded.checked_documents,
            checked_bytes=encoded.checked_bytes,
            bytes_read=encoded.passage.bytes_read,
        )

    def _append_mask(self, encoded: EncodedPassage) -> None:
        """From the first passage of a piece on that has one, with what was there before."""
        is_begun = self._sizes[MASK] > self._starts[MASK]
        if encoded.mask_T is None and not is_begun:
            return
        before = 0 if is_begun else self._counts["tokens"]
        self._append(MASK, content=memoryview(bytes([1]) * before))
        mask_T = encoded.mask_T
        if mask_T is None:
            mask_T = np.ones(encoded.tokens.size, dtype=np.uint8)
        self._append(MASK, content=mask_T.data)

    def _append(self, kind: str, *, content: memoryview) -> None:
        if kind not in self._files:
            path = self._folder / f"{self.name}.{kind}"
            self._files[kind] = path.open("wb", buffering=0)
        self._digests[kind].update(content)
        _write(self._files[kind], content=content)
        self._sizes[kind] += len(content)

    def finish(self, stem: Path, *, num_lines: list[int], leaves: list[list[str]]) -> PieceRecord:
        """End a piece and publish its record as ``stem``.json."""
        record = PieceRecord(
            log=self.name,
            starts=self._starts,
            stops=dict(self._sizes),
            digests={kind: digest.hexdigest() for kind, digest in self._digests.items()},
            backend=self._backend,
            on_error=self._on_error.value,
            errors=dict(sorted(self._errors.items())),
            num_lines=num_lines,
            leaves=leaves,
            **self._counts,
        )
        aside = Path(f"{stem}.{self.name}.partial")
        with full_disk_told(self._folder):
            aside.write_text(json.dumps(asdict(record)), encoding="utf-8")
            aside.replace(f"{stem}.json")
        self._starts = dict(self._sizes)
        self._counts, self._errors = Counter(), Counter()
        return record

    def close(self) -> None:
        """Give back the space of a piece that was not finished."""
        for kind, file in self._files.items():
            with suppress(OSError):
                file.truncate(self._starts[kind])
                file.close()


def _write(file: BinaryIO, *, content: memoryview) -> None:
    """All of it: an unbuffered file may take a part."""
    while len(content):
        content = content[file.write(content) :]


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
