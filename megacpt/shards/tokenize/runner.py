# SPDX-License-Identifier: Apache-2.0
"""Tokenize pieces in this process, several passages at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacpt.corpus.documents import BadLine, OnError, Passage, refusal
from megacpt.corpus.reader import ExtentReader, first_line
from megacpt.device.environment import set_default
from megacpt.shards.tokenize.encode import BackendDiffersError, DocumentEncoder, EncodedPassage
from megacpt.shards.tokenize.in_order import map_in_order
from megacpt.shards.tokenize.piece_log import PieceLog
from megacpt.shards.tokenize.work_folder import PiecePlan, WorkFolder
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.tokenizer.fast import load_fast
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

Report = Callable[[int, int, int], None]
"""Is told bytes read, documents and tokens of each passage that was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What another process needs to take part."""

    prefix: Path
    tokenizer: Path
    tokenizer_settings: str | None
    use_fast: bool
    threads: int
    on_error: OnError


class PieceRunner:
    def __init__(self, job: Job, *, plan: PiecePlan, tokenizer: Tokenizer) -> None:
        self._job, self._plan = job, plan
        self._folder = WorkFolder(job.prefix)
        self.log: str | None = None
        settings, reference = plan.settings, tokenizer.backend
        fast = None
        if job.use_fast and isinstance(reference, HuggingFaceBackend):
            # The threads here do what fastokens' own would; each thread more has a cache to fill.
            set_default("FASTOKENS_BPE_THREADS", value="1")
            fast = load_fast(reference)
        self._encoder = DocumentEncoder(
            tokenizer,
            fast=fast,
            key=settings.key,
            append_eos=settings.append_eos,
            special=settings.special,
            max_bytes=settings.max_document_bytes,
            dtype=np.dtype(settings.dtype),
        )

    def run(
        self, numbers: Iterable[int], *, report: Report, finished: Callable[[int], None]
    ) -> None:
        """Make the pieces, in the order given. ``finished`` is told each that counts."""
        backend = self._encoder.backend.name
        log = PieceLog(self._folder.path, backend=backend, on_error=self._job.on_error)
        self.log = log.name

        def settle(step: _Encoded) -> None:
            if step.encoded is not None:
                self._write(log, step=step, report=report)
            else:
                self._publish(log, piece=step.piece)
                finished(step.piece.number)

        try:
            map_in_order(
                self._steps(numbers), work=self._encode, settle=settle, threads=self._job.threads
            )
        finally:
            log.close()

    def _steps(self, numbers: Iterable[int]) -> Iterator[_Step]:
        """The passages of each piece, then its end."""
        for number in numbers:
            piece = self._open(number)
            count = 0
            for reader in piece.readers:
                for passage in reader:
                    yield _Step(piece, passage, count)
                    count += 1
            yield _Step(piece, None, count)

    def _encode(self, step: _Step) -> _Encoded:
        if step.passage is None:
            return _Encoded(step.piece, None)
        return _Encoded(step.piece, self._encoder.encode(step.passage, number=step.number))

    def _open(self, number: int) -> _OpenPiece:
        settings = self._plan.settings
        readers = [
            ExtentReader(
                self._plan.files[extent.file],
                extent=extent,
                number=n,
                key=settings.key,
                max_bytes=settings.max_document_bytes,
            )
            for n, extent in enumerate(self._plan.pieces[number])
        ]
        return _OpenPiece(number, readers)

    def _write(self, log: PieceLog, *, step: _Encoded, report: Report) -> None:
        encoded = step.encoded
        assert encoded is not None
        if encoded.bad and self._job.on_error is OnError.stop:
            raise self._refusal(step.piece, bad=encoded.bad[0], extent=encoded.passage.extent)
        log.add(encoded)
        report(encoded.passage.bytes_read, encoded.lengths.size, encoded.tokens.size)

    def _publish(self, log: PieceLog, *, piece: _OpenPiece) -> None:
        if self._encoder.is_fast and self._folder.reference_required:
            # Found on another machine.
            raise BackendDiffersError("")
        log.finish(
            self._folder.stem(piece.number),
            num_lines=[reader.num_lines for reader in piece.readers],
            leaves=[reader.leaves for reader in piece.readers],
        )

    def _refusal(self, piece: _OpenPiece, *, bad: BadLine, extent: int) -> Exception:
        where = self._plan.pieces[piece.number][extent]
        file = self._plan.files[where.file]
        return refusal(bad, path=file.path, line=first_line(file, extent=where) + bad.line - 1)


class _OpenPiece(NamedTuple):
    number: int
    readers: list[ExtentReader]


class _Step(NamedTuple):
    """A passage of a piece, or without one its end."""

    piece: _OpenPiece
    passage: Passage | None
    number: int


class _Encoded(NamedTuple):
    piece: _OpenPiece
    encoded: EncodedPassage | None


def open_runner(job: Job) -> PieceRunner:
    """For a process that has nothing but the job."""
    plan = WorkFolder(job.prefix).plan()
    tokenizer = load_tokenizer(job.tokenizer, settings=job.tokenizer_settings, fast=job.use_fast)
    return PieceRunner(job, plan=plan, tokenizer=tokenizer)
