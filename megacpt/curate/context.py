# SPDX-License-Identifier: Apache-2.0
"""What every step of a curation is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacpt.corpus.curation import CuratedFile, CurationStep
from megacpt.corpus.workers.processes import Report
from megacpt.curate.apply import Applied, apply
from megacpt.curate.parts import PartForm
from megacpt.curate.sources import Corpus
from megacpt.curate.step import StepSettings
from megacpt.curate.work import Reading
from megacpt.files import aside_of, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Of one step."""

    folder: Path
    """Its own, for all that it writes; what an interrupted run has left is there."""
    form: PartForm
    """Of the parts it writes."""
    reading: Reading
    dry_run: bool = False
    """Only the account: no parts."""
    report: Report = lambda num_bytes, documents, tokens=0: None
    notice: Callable[[str], None] = lambda text: None
    """Is told what is not as expected."""

    def put(self, name: str, *, text: str) -> Path:
        """Write FOLDER/NAME, which several machines may do at once, with the same text."""
        path = self.folder / name
        aside = aside_of(path)
        write_text(aside, text=text)
        return aside.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    corpus: Corpus
    """What is left."""
    record: CurationStep
    files: Mapping[str, Path] = field(default_factory=dict)
    """What else goes into the folder of the curation, by its name there."""


def apply_step(
    corpus: Corpus,
    *,
    step: StepSettings,
    context: Context,
    findings: Mapping[str, Any] | None = None,
) -> StepOutcome:
    """A step that judges every document by itself."""
    applied = applied_in(context, corpus=corpus, step=step)
    return StepOutcome(
        corpus=applied.corpus, record=record_of(applied, step=step, findings=findings)
    )


def applied_in(context: Context, *, corpus: Corpus, step: StepSettings) -> Applied:
    return apply(
        corpus,
        step=step,
        folder=context.folder,
        form=context.form,
        dry_run=context.dry_run,
        reading=context.reading,
        report=context.report,
    )


def record_of(
    applied: Applied, *, step: StepSettings, findings: Mapping[str, Any] | None = None
) -> CurationStep:
    return CurationStep(
        name=step.name,
        settings=dict(step.to_json()),
        inputs={
            name: tuple(CuratedFile(**file) for file in files)
            for name, files in applied.inputs.items()
        },
        counts={name: asdict(tally) for name, tally in applied.tallies.items()},
        findings=dict(findings or {}),
    )
