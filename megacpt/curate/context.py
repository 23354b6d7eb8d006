# SPDX-License-Identifier: Apache-2.0
"""What every step of a curation is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megacpt.corpus.curation import CurationStep
from megacpt.corpus.workers.processes import Report, untold
from megacpt.curate.parts import PartForm
from megacpt.curate.sources import Corpus
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
    report: Report = untold
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
