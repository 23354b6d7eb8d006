# SPDX-License-Identifier: Apache-2.0
"""Tokenize pieces in this process, several blocks at a time.

One thread reads blocks and writes their tokens in order; others encode. Blocks of the next piece
are under way before the last of a piece is written, so no thread waits at the borders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacpt.data.documents import BadLine, OnError, refusal
from megacpt.data.encode import BackendDiffersError, DocumentEncoder, EncodedBlock
from megacpt.data.piece_files import PieceRecord, PieceWriter
from megacpt.data.reader import PartReader, first_line
from megacpt.data.work_folder import Plan, WorkFolder
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.tokenizer.fast import load_fast
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

BLOCKS_PER_THREAD = 2
"""One to work on, one that waits."""

Report = Callable[[int, int, int], None]
"""Is told bytes read, documents and tokens of each block that was written."""


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
    def __init__(self, job: Job, *, plan: Plan, tokenizer: Tokenizer) -> None:
        self._job, self._plan = job, plan
        self._folder = WorkFolder(job.prefix)
        settings, reference = plan.settings, tokenizer.backend
        fast = None
        if job.use_fast and isinstance(reference, HuggingFaceBackend):
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

    def run(self, numbers: Iterable[int | None], *, report: Report) -> Iterator[PieceRecord]:
        """The records of pieces as they are finished, in the order given.

        At a None all that is under way is finished before the next number is asked for.
        """
        opened: list[_OpenPiece] = []
        under_way: deque[_Step] = deque()
        pool = ThreadPoolExecutor(self._job.threads, thread_name_prefix="encode")
        limit = self._job.threads * BLOCKS_PER_THREAD
        try:
            for step in self._submitted(numbers, pool, opened):
                under_way.extend([] if step is None else [step])
                while len(under_way) > (0 if step is None else limit):
                    yield from self._settle(under_way.popleft(), report=report)
            while under_way:
                yield from self._settle(under_way.popleft(), report=report)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for piece in opened:
                piece.writer.discard()

    def _submitted(
        self, numbers: Iterable[int | None], pool: ThreadPoolExecutor, opened: list[_OpenPiece]
    ) -> Iterator[_Step | None]:
        """The blocks of each piece, then its end."""
        for number in numbers:
            if number is None:
                yield None
                continue
            piece = self._open(number)
            opened[:] = [*(p for p in opened if not p.writer.is_finished), piece]
            count = 0
            for reader in piece.readers:
                for block in reader:
                    yield _Step(piece, pool.submit(self._encoder.encode, block, number=count))
                    count += 1
            yield _Step(piece, None)

    def _open(self, number: int) -> _OpenPiece:
        stem, settings = self._folder.stem(number), self._plan.settings
        backend = self._encoder.backend.name
        return _OpenPiece(
            number=number,
            writer=PieceWriter(stem, backend=backend, on_error=self._job.on_error),
            readers=[
                PartReader(
                    self._plan.files[part.file],
                    part,
                    number=n,
                    key=settings.key,
                    max_bytes=settings.max_document_bytes,
                )
                for n, part in enumerate(self._plan.pieces[number])
            ],
        )

    def _settle(self, step: _Step, *, report: Report) -> Iterator[PieceRecord]:
        """Write the block, or publish the piece whose last one was written."""
        if step.task is None:
            yield self._publish(step.piece)
            return
        encoded = step.task.result()
        if encoded.bad and self._job.on_error is OnError.stop:
            raise self._refusal(step.piece, encoded.bad[0], part=encoded.block.part)
        step.piece.writer.add(encoded)
        report(encoded.block.bytes_read, encoded.lengths.size, encoded.tokens.size)

    def _publish(self, piece: _OpenPiece) -> PieceRecord:
        if self._encoder.is_fast and self._folder.reference_required:
            # Found on another machine.
            raise BackendDiffersError("")
        return piece.writer.finish(
            num_lines=[reader.num_lines for reader in piece.readers],
            leaves=[reader.leaves for reader in piece.readers],
        )

    def _refusal(self, piece: _OpenPiece, bad: BadLine, *, part: int) -> Exception:
        where = self._plan.pieces[piece.number][part]
        file = self._plan.files[where.file]
        return refusal(bad, path=file.path, line=first_line(file, where) + bad.line - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenPiece:
    number: int
    writer: PieceWriter
    readers: list[PartReader]


class _Step(NamedTuple):
    """A block under way, or without a task the end of its piece."""

    piece: _OpenPiece
    task: Future[EncodedBlock] | None


def open_runner(job: Job) -> PieceRunner:
    """For a process that has nothing but the job."""
    plan = WorkFolder(job.prefix).plan()
    tokenizer = load_tokenizer(job.tokenizer, settings=job.tokenizer_settings)
    return PieceRunner(job, plan=plan, tokenizer=tokenizer)
