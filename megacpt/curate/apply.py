# SPDX-License-Identifier: Apache-2.0
"""Apply a step to a corpus: a part of what is left for every piece, and the account of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from megacpt.corpus.checksum import root
from megacpt.corpus.curation import CuratedFile, CurationStep
from megacpt.corpus.documents import QUARANTINE, OnError
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import TEXT, Document, DocumentBatch
from megacpt.curate.parts import LinesBeside, PartForm, open_part
from megacpt.curate.quarantine import bad_lines, numbered
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import DocumentVerdict, Judge, StepSettings
from megacpt.curate.tally import Tally, total
from megacpt.curate.work import make_pieces
from megacpt.files import write_parts

BESIDE = ("notes", "bad")
"""Files of JSON lines beside the parts: notes of verdicts, and lines that are no documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A step that is done."""

    corpus: Corpus
    """What is left."""
    tallies: Mapping[str, Tally]
    """By source; of those that it concerns."""
    inputs: Mapping[str, tuple[CuratedFile, ...]]
    """By source: the files that were read."""
    notes: Mapping[str, Sequence[Path]]
    """By source: files of JSON lines, the notes of its verdicts in order."""


def apply_step(
    corpus: Corpus,
    *,
    step: StepSettings,
    context: Context,
    findings: Mapping[str, Any] | None = None,
) -> StepOutcome:
    """A step that judges every document by itself, and has no more to say than ``findings``."""
    applied = apply(corpus, step=step, context=context)
    return StepOutcome(
        corpus=applied.corpus, record=record_of(applied, step=step, findings=findings)
    )


def record_of(
    applied: Applied, *, step: StepSettings, findings: Mapping[str, Any] | None = None
) -> CurationStep:
    return CurationStep(
        name=step.name,
        settings=dict(step.to_json()),
        inputs=applied.inputs,
        counts={name: asdict(tally) for name, tally in applied.tallies.items()},
        findings=dict(findings or {}),
    )


def apply(corpus: Corpus, *, step: StepSettings, context: Context) -> Applied:
    """Write FOLDER/NNNNN-CHECKSUM.FORM, one for each piece of sources that the step concerns."""
    folder, form, dry_run = context.folder, context.form, context.dry_run
    mine = [source.name for source in corpus.sources if step.concerns(source)]
    numbers = list(corpus.pieces_of(mine))
    keeps_bad = context.reading.on_error is OnError.quarantine and not dry_run
    settings = _Applying(step=step, form=None if dry_run else form, keeps_bad=keeps_bad)
    records = make_pieces(
        corpus,
        settings=settings,
        folder=folder,
        reading=replace(context.reading, threads_max=step.threads_max),
        numbers=numbers,
        report=context.report,
    )
    if keeps_bad and context.reading.share is None:
        content = numbered(corpus, numbers=numbers, records=records, folder=folder)
        write_parts(folder / QUARANTINE, parts=content)
    by_piece = dict(zip(numbers, records, strict=True))
    left = tuple(
        _left(source, corpus=corpus, records=by_piece, folder=folder, form=form)
        if source.name in mine and not dry_run
        else source
        for source in corpus.sources
    )
    return Applied(
        corpus=replace(corpus, sources=left),
        tallies={name: total(_tallies(name, corpus=corpus, records=by_piece)) for name in mine},
        inputs={name: _inputs(name, corpus=corpus, records=by_piece) for name in mine},
        notes={
            name: [
                folder / by_piece[number]["notes"]
                for number in corpus.pieces_of([name])
                if "notes" in by_piece[number]
            ]
            for name in mine
        },
    )


def _tallies(
    name: str, *, corpus: Corpus, records: Mapping[int, Mapping[str, Any]]
) -> Iterator[Tally]:
    return (Tally.of_json(records[number]["tally"]) for number in corpus.pieces_of([name]))


def _inputs(
    name: str, *, corpus: Corpus, records: Mapping[int, Mapping[str, Any]]
) -> tuple[CuratedFile, ...]:
    """Of each file the checksum, from those of its extents."""
    leaves: dict[int, list[str]] = {}
    source = next(source for source in corpus.sources if source.name == name)
    for number in corpus.pieces_of([name]):
        extents = corpus.pieces[number].extents
        for extent, found in zip(extents, records[number]["leaves"], strict=True):
            leaves.setdefault(extent.file, []).extend(found)
    return tuple(
        CuratedFile(path=file.path, bytes=file.bytes, sha256=root(leaves[number]))
        for number, file in enumerate(source.files)
    )


def _left(
    source: TextSource,
    *,
    corpus: Corpus,
    records: Mapping[int, Mapping[str, Any]],
    folder: Path,
    form: PartForm,
) -> TextSource:
    kind = FileFormat.parquet if form is PartForm.parquet else FileFormat.jsonl
    files = []
    for number in corpus.pieces_of([source.name]):
        path = folder / records[number]["part"]
        size = path.stat().st_size
        # No time: its name says what is in it, on whatever machine it was made.
        files.append(SourceFile(path=str(path), format=kind, bytes=size, modified_ns=0))
    return replace(source, files=tuple(files), key=TEXT, shape=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applying:
    """What is made of a piece: its part."""

    step: StepSettings
    form: PartForm | None
    """None: none is written."""
    keeps_bad: bool
    """Lines that are no documents."""

    def to_json(self) -> dict[str, Any]:
        form = self.form.value if self.form else None
        return {"step": self.step.name, "settings": dict(self.step.to_json()), "form": form}

    def open(self) -> Callable[[Path], _Part]:
        judge = self.step.open()
        return partial(_Part, judge=judge, form=self.form, keeps_bad=self.keeps_bad)


class _Part:
    def __init__(self, stem: Path, *, judge: Judge, form: PartForm | None, keeps_bad: bool) -> None:
        self._judge, self._tally, self._keeps_bad = judge, Tally(), keeps_bad
        self._beside = {name: LinesBeside(Path(f"{stem}.{name}.jsonl")) for name in BESIDE}
        self._writer = open_part(stem, form=form) if form else None

    def work(self, batch: DocumentBatch) -> tuple[DocumentBatch, Sequence[DocumentVerdict]]:
        return batch, self._judge(batch)

    def settle(self, made: tuple[DocumentBatch, Sequence[DocumentVerdict]]) -> None:
        batch, verdicts = made
        left: list[Document] = []
        for document, verdict in zip(batch.documents, verdicts, strict=True):
            kept = self._tally.count(document, verdict=verdict)
            if kept is not None:
                left.append(kept)
        self._beside["notes"].add([v.note for v in verdicts if v.note is not None])
        if self._keeps_bad:
            self._beside["bad"].add(bad_lines(batch))
        for line in batch.bad:
            kind = line.kind.value
            self._tally.errors[kind] = self._tally.errors.get(kind, 0) + 1
        if self._writer is not None:
            self._writer.add(left)

    def finish(self) -> dict[str, Any]:
        record: dict[str, Any] = {"tally": asdict(self._tally)}
        record |= {name: kept for name, b in self._beside.items() if (kept := b.finish())}
        if self._writer is not None:
            record["part"] = self._writer.finish().name
        return record | {"files": [record[name] for name in ("part", *BESIDE) if name in record]}
