# SPDX-License-Identifier: Apache-2.0
"""Make something of every piece of a corpus, on all cores, and go on after a kill.

FOLDER/plan.json says of what and how; FOLDER/NNNNN.json is the record of a finished piece, whose
other files are there before it. What is made of a piece depends on the piece alone, so that the
number of workers and the order of their work leave no trace. Nothing waits for the disk: what a
power cut has shortened is not of the size that the record states, and is made again. Several
machines may share a folder: each makes its share of the pieces, and goes on when those of the
others are there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from megacpt.corpus.documents import BadLine, OnError, Passage, refusal
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.reader import ExtentReader, first_line
from megacpt.corpus.workers.in_order import map_in_order
from megacpt.corpus.workers.processes import Report, num_processes, run_pieces, untold
from megacpt.corpus.workers.share import Share
from megacpt.curate.documents import Document, DocumentBatch, lines_of, read_documents
from megacpt.curate.sources import Corpus
from megacpt.errors import DataError, EnvironmentError_
from megacpt.files import aside_of, write_first, write_text

PLAN = "plan.json"
DONE = "done"


class PieceWork(Protocol):
    """What is made of one piece, batch after batch."""

    def work(self, batch: DocumentBatch) -> Any:
        """Called in several threads."""

    def settle(self, made: Any) -> None:
        """Take what ``work`` has made, in the order of the batches."""

    def finish(self) -> Mapping[str, Any]:
        """Complete the files of the piece; what its record says of it, and under ``files`` what
        they are called."""


class WorkSettings(Protocol):
    """What is to be made; it is pickled, and opened once in each process."""

    def to_json(self) -> Mapping[str, Any]:
        """All that the result depends on besides the corpus."""

    def open(self) -> Callable[[Path], PieceWork]:
        """Begins a piece, by the path of its files without their endings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How raw text is read."""

    workers: int = 1
    threads_max: int = 1
    """Of a process: more than one where the work lets go of Python's lock."""
    on_error: OnError = OnError.stop
    max_document_bytes: int = 1 << 26
    as_written: frozenset[int] = frozenset()
    """Pieces that were read before, all of whose documents are as they would be written: of these
    a document is parsed when its text is asked for."""
    share: Share | None = None
    """Of several machines in the same folders; None: all is made here."""


class Unfinished(Exception):
    """What others are to make in FOLDER is not there yet."""

    def __init__(self, folder: Path, *, missing: int) -> None:
        super().__init__(f"{missing:,} pieces of {folder} are left to other tasks")


def make_pieces(
    corpus: Corpus,
    *,
    settings: WorkSettings,
    folder: Path,
    reading: Reading,
    numbers: Sequence[int] | None = None,
    report: Report = untold,
) -> list[dict[str, Any]]:
    """The records of all pieces (or of those ``numbers``), in order; finished ones are not made
    again. ``Unfinished``: those of other shares are not there."""
    _start(folder, corpus=corpus, settings=settings.to_json(), share=reading.share)
    wanted = range(len(corpus.pieces)) if numbers is None else numbers
    mine = wanted if reading.share is None else reading.share.of(wanted)
    record = partial(_record, folder, on_error=reading.on_error)
    left = [number for number in mine if record(number=number) is None]
    if left:
        num_bytes = sum(corpus.pieces[number].bytes for number in left)
        processes = num_processes(
            reading.workers,
            num_pieces=len(left),
            num_bytes=num_bytes,
            threads_max=reading.threads_max,
        )
        job = PieceJob(
            corpus=corpus,
            settings=settings,
            folder=folder,
            reading=reading,
            threads=min(reading.threads_max, -(-reading.workers // processes)),
        )
        run_pieces(left, runner=job.open(), job=job, processes=processes, report=report)
    records = [record(number=number) for number in wanted]
    found = [record for record in records if record is not None]
    if len(found) < len(records):
        raise Unfinished(folder, missing=len(records) - len(found))
    return found


def make_once(
    corpus: Corpus,
    *,
    settings: Mapping[str, Any],
    folder: Path,
    reading: Reading,
    make: Callable[[], None],
) -> None:
    """Have ``make`` put into ``folder``, which is its own, what takes all pieces together.

    ``settings``: all that it depends on besides the corpus. What is finished is not made again, and
    of several machines one makes it; others get ``Unfinished``.
    """
    _start(folder, corpus=corpus, settings=settings, share=reading.share)
    path = folder / DONE
    if not path.is_file():
        if reading.share is not None and not reading.share.is_first:
            raise Unfinished(folder, missing=1)
        make()
        write_text(path, text="")


def _start(
    folder: Path, *, corpus: Corpus, settings: Mapping[str, Any], share: Share | None
) -> None:
    """Keep what an interrupted run of the same plan has finished, and nothing else; refuse another
    plan where others may be at work."""
    plan = {"corpus": corpus.to_json(), "settings": settings}
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    path = folder / PLAN
    if share is not None:
        _agree(path, text=text)
    elif path.is_file() and path.read_text(encoding="utf-8") == text:
        for aside in folder.glob("*.partial"):
            aside.unlink()
    else:
        if folder.exists():
            shutil.rmtree(folder)
        write_text(path, text=text)


def _agree(path: Path, *, text: str) -> None:
    """The plan of the first task must be the same."""
    # Also where it is there: a change of its own makes NFS look again at what others have made in
    # the folder, of which it may remember for a minute that it was missing.
    write_first(path, text=text)
    if path.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{path} is of other inputs or settings; give all tasks the same, or remove "
            f"{path.parent.parent} to start over."
        )


def _record(folder: Path, *, number: int, on_error: OnError) -> dict[str, Any] | None:
    """Of a piece whose files are whole, and whose bad lines, if any, were treated as now."""
    try:
        found: dict[str, Any] = json.loads(
            _stem(folder, number=number).with_suffix(".json").read_text()
        )
        whole = all((folder / name).stat().st_size == size for name, size in found["sizes"].items())
    except (FileNotFoundError, ValueError):
        return None
    is_as_now = found["on_error"] in (None, on_error.value)
    return found if whole and is_as_now else None


def _stem(folder: Path, *, number: int) -> Path:
    return folder / f"{number:05}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceJob:
    """What another process needs to take part."""

    corpus: Corpus
    settings: WorkSettings
    folder: Path
    reading: Reading
    threads: int

    def open(self) -> PieceMaker:
        return PieceMaker(self)


class _Step(NamedTuple):
    """A batch of a piece, or what is made of it; with neither, the end of the piece."""

    number: int
    work: PieceWork
    readers: Sequence[ExtentReader]
    batch: DocumentBatch | None = None
    made: Any = None
    has_bad: bool = False


class PieceMaker:
    def __init__(self, job: PieceJob) -> None:
        self._job = job
        self._begin = job.settings.open()

    def run(
        self, numbers: Iterable[int], *, report: Report, finished: Callable[[int], None]
    ) -> None:
        def settle(step: _Step) -> None:
            if step.batch is None:
                self._publish(step)
                finished(step.number)
                return
            step.work.settle(step.made)
            report(step.batch.passage.bytes_read, documents=len(step.batch.documents))

        def work(step: _Step) -> _Step:
            return step if step.batch is None else step._replace(made=step.work.work(step.batch))

        try:
            map_in_order(self._steps(numbers), work=work, settle=settle, threads=self._job.threads)
        except OSError as error:
            raise EnvironmentError_(
                f"{self._job.folder} cannot be written: {error.strerror}. Free space and start the "
                "same command again: it goes on from the finished pieces. (Or remove that folder.)"
            ) from error

    def _steps(self, numbers: Iterable[int]) -> Iterator[_Step]:
        for number in numbers:
            work = self._begin(_stem(self._job.folder, number=number))
            readers = self._readers(number)
            has_bad = False
            for batch in self._batches(number, readers=readers):
                has_bad |= bool(batch.bad)
                yield _Step(number, work, readers, batch=batch)
            yield _Step(number, work, readers, has_bad=has_bad)

    def _readers(self, number: int) -> list[ExtentReader]:
        piece = self._job.corpus.pieces[number]
        return [
            ExtentReader(
                piece.source.files[extent.file],
                extent=extent,
                number=n,
                key=None,
                max_bytes=self._job.reading.max_document_bytes,
            )
            for n, extent in enumerate(piece.extents)
        ]

    def _batches(self, number: int, *, readers: Sequence[ExtentReader]) -> Iterator[DocumentBatch]:
        piece, reading = self._job.corpus.pieces[number], self._job.reading
        first = 0
        for passage in chain.from_iterable(readers):
            extent = piece.extents[passage.extent]
            file = piece.source.files[extent.file]
            documents, bad = self._read(passage, number=number, file=file)
            if bad and reading.on_error is OnError.stop:
                line = first_line(file, extent=extent) + bad[0].line - 1
                raise refusal(
                    bad,
                    path=file.path,
                    line=line,
                    num_lines=passage.num_lines,
                    key=f"Set sources.{piece.source.name}.key",
                    skip="on_error=skip",
                )
            yield DocumentBatch(
                piece=number, first=first, documents=documents, bad=bad, passage=passage
            )
            first += len(documents)

    def _read(
        self, passage: Passage, *, number: int, file: SourceFile
    ) -> tuple[list[Document], list[BadLine]]:
        source, reading = self._job.corpus.pieces[number].source, self._job.reading
        if number in reading.as_written:
            return lines_of(passage), []
        documents, parsed = read_documents(
            passage,
            key=source.key,
            limit=reading.max_document_bytes,
            shape=source.shape,
            is_text=file.format is FileFormat.text,
        )
        return documents, [*passage.bad, *parsed.bad]

    def _publish(self, step: _Step) -> None:
        folder, made = self._job.folder, step.work.finish()
        record = {
            **made,
            "sizes": {name: (folder / name).stat().st_size for name in made.get("files", ())},
            "leaves": [reader.leaves for reader in step.readers],
            "num_lines": [reader.num_lines for reader in step.readers],
            "on_error": self._job.reading.on_error.value if step.has_bad else None,
        }
        path = _stem(folder, number=step.number).with_suffix(".json")
        aside = aside_of(path)
        aside.write_text(json.dumps(record))
        aside.replace(path)
