# SPDX-License-Identifier: Apache-2.0
"""Tokenize pieces in this process, several passages at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacpt.corpus.documents import OnError, Passage, refusal
from megacpt.corpus.reader import ExtentReader, first_line
from megacpt.corpus.workers.in_order import map_in_order
from megacpt.corpus.workers.processes import Report
from megacpt.device.environment import set_default
from megacpt.errors import DataError
from megacpt.shards.tokenize.encode import BackendDiffersError, DocumentEncoder, EncodedPassage
from megacpt.shards.tokenize.piece_log import PieceLog
from megacpt.shards.tokenize.work_folder import PiecePlan, WorkFolder
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.tokenizer.fast import load_fast
from megacpt.tokenizer.hugging_face import HuggingFaceBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeJob:
    """What another process needs to take part."""

    prefix: Path
    tokenizer: Path
    tokenizer_settings: str | None
    use_fast: bool
    threads: int
    on_error: OnError

    def open(self) -> PieceTokenizer:
        """The runner of a process that has nothing but the job."""
        plan = WorkFolder(self.prefix).plan()
        tokenizer = load_tokenizer(
            self.tokenizer, settings=self.tokenizer_settings, fast=self.use_fast
        )
        return PieceTokenizer(self, plan=plan, tokenizer=tokenizer)


class PieceTokenizer:
    def __init__(self, job: TokenizeJob, *, plan: PiecePlan, tokenizer: Tokenizer) -> None:
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

        def settle(step: _Step) -> None:
            if step.encoded is not None:
                self._write(log, number=step.number, encoded=step.encoded, report=report)
            else:
                self._publish(log, step=step)
                finished(step.number)

        try:
            map_in_order(
                self._steps(numbers), work=self._encode, settle=settle, threads=self._job.threads
            )
        finally:
            log.close()

    def _steps(self, numbers: Iterable[int]) -> Iterator[_Step]:
        """The passages of each piece, then its end."""
        for number in numbers:
            readers = self._readers(number)
            passages = chain.from_iterable(readers)
            yield from (
                _Step(number, readers, passage, place) for place, passage in enumerate(passages)
            )
            yield _Step(number, readers)

    def _encode(self, step: _Step) -> _Step:
        if step.passage is None:
            return step
        try:
            encoded = self._encoder.encode(step.passage, number=step.place)
        except DataError as error:
            extent = self._plan.pieces[step.number][step.passage.extent]
            raise DataError(f"{self._plan.files[extent.file].path}: {error}") from error
        return step._replace(passage=None, encoded=encoded)

    def _readers(self, number: int) -> list[ExtentReader]:
        settings = self._plan.settings
        return [
            ExtentReader(
                self._plan.files[extent.file],
                extent=extent,
                number=n,
                key=settings.key,
                max_bytes=settings.max_document_bytes,
            )
            for n, extent in enumerate(self._plan.pieces[number])
        ]

    def _write(
        self, log: PieceLog, *, number: int, encoded: EncodedPassage, report: Report
    ) -> None:
        if encoded.bad and self._job.on_error is OnError.stop:
            extent = self._plan.pieces[number][encoded.passage.extent]
            file = self._plan.files[extent.file]
            line = first_line(file, extent=extent) + encoded.bad[0].line - 1
            num_lines = encoded.passage.num_lines
            raise refusal(encoded.bad, path=file.path, line=line, num_lines=num_lines)
        log.add(encoded)
        report(
            encoded.passage.bytes_read,
            documents=encoded.lengths.size,
            tokens=encoded.tokens.size,
        )

    def _publish(self, log: PieceLog, *, step: _Step) -> None:
        if self._encoder.is_fast and self._folder.reference_required:
            # Found on another machine.
            raise BackendDiffersError("")
        log.finish(
            self._folder.stem(step.number),
            num_lines=[reader.num_lines for reader in step.readers],
            leaves=[reader.leaves for reader in step.readers],
        )


class _Step(NamedTuple):
    """A passage of a piece, read or encoded; with neither, the end of the piece."""

    number: int
    """Number of the piece."""
    readers: list[ExtentReader]
    passage: Passage | None = None
    place: int = 0
    """Number of the passage in the piece."""
    encoded: EncodedPassage | None = None
