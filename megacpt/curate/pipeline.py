# SPDX-License-Identifier: Apache-2.0
"""All steps of a curation, one after another, to a folder with the account of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from megacpt import __version__
from megacpt.corpus.checksum import sha256_of
from megacpt.corpus.curation import (
    CURATION,
    CuratedFile,
    CuratedSource,
    Curation,
    CurationStep,
    curated_folder,
    not_as_written,
)
from megacpt.corpus.documents import QUARANTINE
from megacpt.corpus.formats import SourceFile
from megacpt.corpus.inputs import STANDARD_INPUT, find_files
from megacpt.corpus.workers.processes import Report, untold
from megacpt.corpus.workers.share import Share
from megacpt.curate.apply import apply
from megacpt.curate.config import CurateConfig, TextConfig, sections
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.decontaminate.settings import Action
from megacpt.curate.parts import PartForm
from megacpt.curate.quarantine import told
from megacpt.curate.rewrite.guard import require_no_raw_pairs
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, Judge
from megacpt.curate.tally import Tally
from megacpt.curate.work import Reading
from megacpt.device.environment import num_cores
from megacpt.errors import ConfigError
from megacpt.files import publish, require_new
from megacpt.text import listed


class RunStep(Protocol):
    def __call__(self, corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome: ...


def _from(room: str) -> RunStep:
    """The step of a room, which is imported when it is asked for: all take half a second."""

    def run(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
        step: RunStep = import_module(f"megacpt.curate.{room}.run").run
        return step(corpus, settings=settings, context=context)

    return run


RUN: dict[str, RunStep] = {
    "filter": _from("filters"),
    "deduplicate": _from("deduplicate"),
    "decontaminate": _from("decontaminate"),
    "rewrite": _from("rewrite"),
    "balance": _from("balance"),
}
"""By the name of the section of the configuration that asks for the step."""


class Begins(Protocol):
    def __call__(self, name: str, *, num_bytes: int) -> Report: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told of the work."""

    begins: Begins = lambda name, *, num_bytes: untold
    """A step with so many bytes to read; what it is given is told how far it is."""
    notice: Callable[[str], None] = lambda text: None


def curate(
    config: CurateConfig,
    *,
    dry_run: bool = False,
    share: Share | None = None,
    watcher: Watcher | None = None,
) -> Curation:
    """Write ``config.output``; with ``dry_run`` nothing is left behind but what is returned.

    What an interrupted run has finished lies in OUTPUT.work, and is used again. With ``share``, one
    of several machines makes its pieces there and writes no output: ``Unfinished`` where the next
    step has to wait for others. When all is made, without ``share``, the output is made of it.
    """
    watcher = watcher or Watcher()
    output, work = Path(config.output), work_folder(config)
    if share is None:
        _remove_finished(work, output=output)
    require_new(output)
    asked = _asked(config)
    if share is not None:
        require_shareable(config)
    corpus, history = open_corpus(
        config, spool=work, notice=watcher.notice, has_history=share is None
    )
    if config.rewrite is None:
        require_no_raw_pairs(corpus)
    account = _Account(history=history, steps=[], files={})
    reading = Reading(workers=config.workers or num_cores(), on_error=config.on_error, share=share)
    for number, (name, settings) in enumerate(asked.items(), start=1):
        is_last = number == len(asked)
        context = Context(
            folder=work / f"{number}-{name}",
            form=config.form if is_last else PartForm.jsonl,
            reading=reading,
            dry_run=dry_run,
            report=watcher.begins(name, num_bytes=corpus.num_bytes),
            notice=watcher.notice,
        )
        result = RUN[name](corpus, settings=settings, context=context)
        corpus = result.corpus
        account.steps.append(result.record)
        account.files.update(result.files)
    if dry_run:
        shutil.rmtree(work, ignore_errors=True)
    if dry_run or share is not None:
        return Curation(megacpt=__version__, sources={}, steps=tuple(account.steps))
    notice = watcher.notice
    return _publish(corpus, config=config, account=account, reading=reading, notice=notice)


def work_folder(config: CurateConfig) -> Path:
    """Beside the output, whatever its steps write before that is whole."""
    output = Path(config.output)
    return output.with_name(f"{output.name}.work")


def _remove_finished(work: Path, *, output: Path) -> None:
    """What is left of a run that was killed after its output had its name; nothing else can be
    there beside an output, for none is begun that is there."""
    if work.is_dir() and (output / CURATION).is_file():
        shutil.rmtree(work)


def _asked(config: CurateConfig) -> Mapping[str, Any]:
    asked = sections(config)
    if not asked:
        raise ConfigError(
            f"nothing is asked for; set one of the sections {listed(RUN)}, as in "
            "deduplicate.near.threshold=0.8."
        )
    if config.decontaminate is not None and config.decontaminate.action is Action.mask:
        _require_maskable(config)
    return asked


def _require_maskable(config: CurateConfig) -> None:
    if config.rewrite is not None:
        raise ConfigError(
            "decontaminate.action=mask marks places of texts, and rewrite, which comes after it, "
            "changes texts; rewrite first, in a curation of its own, or use action=drop or cut."
        )
    if config.form is PartForm.parquet:
        raise ConfigError(
            "decontaminate.action=mask needs lines of JSON, of which megacpt tokenize reads the "
            "marks; use form=jsonl_zst or form=jsonl, or action=drop or cut."
        )


def require_shareable(config: CurateConfig) -> None:
    """Whether several machines can do it."""
    if config.rewrite is not None and config.rewrite.endpoint is not None:
        raise ConfigError(
            "rewrite.endpoint is asked by one machine, which counts what may be spent; curate with "
            "it first, and give what it has written to the others."
        )
    for name, text in config.sources.items():
        if STANDARD_INPUT in text.files.split(","):
            raise ConfigError(
                f"sources.{name}.files={text.files} has standard input in it, which several "
                "machines cannot share; write it to a file first."
            )


def open_corpus(
    config: CurateConfig,
    *,
    spool: Path,
    notice: Callable[[str], None] = lambda text: None,
    has_history: bool = True,
) -> tuple[Corpus, Mapping[str, tuple[CurationStep, ...]]]:
    """The sources, and by source the steps that earlier curations of its files have done; looking
    for these reads the files."""
    if not config.sources:
        raise ConfigError("no source is named; set sources.NAME.files=... for each.")
    sources, history = [], {}
    for name, text in config.sources.items():
        files = _files(text, spool=spool, notice=notice)
        sources.append(
            TextSource(
                name=name, kind=text.kind, files=tuple(files), key=text.key, shape=text.shape
            )
        )
        history[name] = _history(name, files=files, notice=notice) if has_history else ()
    return Corpus(sources=tuple(sources)), history


def _files(text: TextConfig, *, spool: Path, notice: Callable[[str], None]) -> list[SourceFile]:
    names = [name.strip() for name in text.files.split(",")]
    return find_files(names, file_format=text.format, spool=spool, notice=notice)


def _history(
    name: str, *, files: Sequence[SourceFile], notice: Callable[[str], None]
) -> tuple[CurationStep, ...]:
    """Steps that all files of a source have been through; they must be as they were written."""
    folders = {curated_folder(Path(file.path)) for file in files}
    if folders == {None}:
        return ()
    if len(folders) > 1:
        notice(f"{name}: its files come from several curations; what was done there is not kept.")
        return ()
    (folder,) = folders
    assert folder is not None
    curation = Curation.read(folder)
    found = {_source_of(Path(file.path), folder=folder, curation=curation) for file in files}
    if len(found) > 1:
        notice(f"{name}: its files are of {listed(sorted(found))}, whose history is not kept.")
        return ()
    return curation.steps_of(found.pop())


def _source_of(path: Path, *, folder: Path, curation: Curation) -> str:
    held = curation.file(str(path.absolute().relative_to(folder)))
    if held is None or sha256_of(path) != held[1].sha256:
        raise not_as_written(path)
    return held[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unchanged:
    """Writes sources that no step has concerned, in the form of the others."""

    names: frozenset[str]
    name: str = "unchanged"
    threads_max: int = 1

    def to_json(self) -> dict[str, Any]:
        return {}

    def concerns(self, source: TextSource) -> bool:
        return source.name in self.names

    def open(self) -> Judge:
        return lambda batch: [KEPT] * len(batch.documents)


def _publish(
    corpus: Corpus,
    *,
    config: CurateConfig,
    account: _Account,
    reading: Reading,
    notice: Callable[[str], None],
) -> Curation:
    """Give the parts of the last step their names in ``config.output``."""
    output, work = Path(config.output), work_folder(config)
    left = frozenset(s.name for s in corpus.sources if not _is_below(s, folder=work))
    unchanged = apply(
        corpus,
        step=_Unchanged(names=left),
        context=Context(folder=work / "unchanged", form=config.form, reading=reading),
    )
    for name, tally in unchanged.tallies.items():
        if tally.errors:
            notice(f"{name}: {told(tally.errors)}.")
    aside = work / "output"
    shutil.rmtree(aside, ignore_errors=True)
    sources = {}
    for source in unchanged.corpus.sources:
        tally = unchanged.tallies.get(source.name) or account.tally(source.name)
        sources[source.name] = CuratedSource(
            kind=source.kind.value,
            files=tuple(_placed(source, folder=aside, form=config.form)),
            documents=tally.documents_out,
            bytes=tally.bytes_out,
            history=account.history[source.name],
        )
    curation = Curation(megacpt=__version__, sources=sources, steps=tuple(account.steps))
    curation.write(aside)
    _keep_bad_lines(aside / QUARANTINE, work=work)
    for name, path in account.files.items():
        os.link(path, aside / name)
    output.parent.mkdir(parents=True, exist_ok=True)
    publish(aside, folder=output)
    shutil.rmtree(work)
    return curation


def _keep_bad_lines(path: Path, *, work: Path) -> None:
    """All that steps have set aside, if anything; each source was read by one of them first."""
    found = [kept for kept in sorted(work.rglob(QUARANTINE)) if kept.stat().st_size]
    if found:
        with path.open("wb") as target:
            for kept in found:
                with kept.open("rb") as source:
                    shutil.copyfileobj(source, target)


def _is_below(source: TextSource, *, folder: Path) -> bool:
    """Whether a step has written it; what came through a pipe lies in the folder itself."""
    return all(folder in Path(file.path).parent.parents for file in source.files)


def _placed(source: TextSource, *, folder: Path, form: PartForm) -> Iterator[CuratedFile]:
    """Hard links: until the folder is there, a run that is killed finds its parts again."""
    (folder / source.name).mkdir(parents=True)
    for number, file in enumerate(source.files):
        path = folder / source.name / f"{number:05}.{form.value}"
        os.link(file.path, path)
        yield CuratedFile(
            path=str(path.relative_to(folder)), bytes=file.bytes, sha256=sha256_of(path)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    history: Mapping[str, tuple[CurationStep, ...]]
    steps: list[CurationStep]
    files: dict[str, Path]

    def tally(self, source: str) -> Tally:
        """Of the last step that concerned it."""
        last = next(step for step in reversed(self.steps) if source in step.counts)
        return Tally.of_json(last.counts[source])
