# SPDX-License-Identifier: Apache-2.0
"""Leave out the documents that were found to be like others, and show some beside those."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.curate.deduplicate.alike import EXACT, STAYS, State
from megacpt.curate.deduplicate.line_cutter import LineCutter, RepeatedLines
from megacpt.curate.documents import Batch, Document
from megacpt.curate.sources import Source
from megacpt.curate.step import KEPT, Judge, Verdict, dropped, is_trained_on
from megacpt.curate.tally import EXAMPLE_CHARS
from megacpt.files import write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOut:
    """The step, once it is known who goes."""

    folder: Path
    """Of the state and of what is shown."""
    firsts: Sequence[int]
    """Number of the first document of each piece."""
    heldout: Sequence[bool]
    """Of each piece, whether it is held out."""
    lines: RepeatedLines | None
    shown: frozenset[int]
    """Documents whose texts are kept, to be shown beside each other."""
    settings: Mapping[str, Any]
    name: str = "deduplicate"
    threads_max: int = 2

    def to_json(self) -> Mapping[str, Any]:
        return self.settings

    def concerns(self, source: Source) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        state = State.read(self.folder)
        cutter = self.lines.open() if self.lines else None
        return lambda batch: self._judge(batch, state=state, cutter=cutter)

    def _judge(self, batch: Batch, *, state: State, cutter: LineCutter | None) -> Sequence[Verdict]:
        first = self.firsts[batch.piece] + batch.first
        here = slice(first, first + len(batch.documents))
        if self.shown:
            for number in self.shown.intersection(range(here.start, here.stop)):
                self._show(batch.documents[number - first], number=number)
        rules = state.rules[here]
        verdicts = cutter.judge(batch) if cutter else [KEPT] * len(batch.documents)
        for at in np.flatnonzero(rules != STAYS).tolist():
            rule = "exact" if rules[at] == EXACT else "near"
            of = "_of_heldout" * self._heldout(int(state.like[first + at]))
            verdicts[at] = dropped(f"{rule}{of}")
        return verdicts

    def _heldout(self, document: int) -> bool:
        piece = int(np.searchsorted(self.firsts, document, side="right")) - 1
        return bool(self.heldout[piece])

    def _show(self, document: Document, *, number: int) -> None:
        content = {"id": document.id, "text": document.text[:EXAMPLE_CHARS]}
        write_text(self.folder / "shown" / f"{number}.json", text=json.dumps(content))
