# SPDX-License-Identifier: Apache-2.0
"""Leave out the documents that were found to be like others, and show some beside those."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.curate.deduplicate.alike import EXACT, NEAR, STAYS, State
from megacpt.curate.deduplicate.lines import LineCutter, RepeatedLines
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.sources import TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, dropped, is_trained_on
from megacpt.curate.tally import EXAMPLE_CHARS

VERDICTS = {
    (rule, of_heldout): dropped(f"{name}{'_of_heldout' * of_heldout}")
    for rule, name in ((EXACT, "exact"), (NEAR, "near"))
    for of_heldout in (False, True)
}


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
    sizes: Path
    """uint32: bytes of every document's text."""
    shown: frozenset[int]
    """Documents whose texts are kept, to be shown beside each other."""
    settings: Mapping[str, Any]
    name: str = "deduplicate"
    threads_max: int = 2

    def to_json(self) -> Mapping[str, Any]:
        return self.settings

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        state = State.read(self.folder)
        cutter = self.lines.open() if self.lines else None
        return lambda batch: self._judge(batch, state=state, cutter=cutter)

    def _judge(
        self, batch: DocumentBatch, *, state: State, cutter: LineCutter | None
    ) -> Sequence[DocumentVerdict]:
        if not batch.documents:
            return []
        first = self.firsts[batch.piece] + batch.first
        here = slice(first, first + len(batch.documents))
        sizes = np.memmap(self.sizes, np.uint32, "r")[here].tolist()
        for document, size in zip(batch.documents, sizes, strict=True):
            document.num_bytes = size
        if self.shown:
            for number in self.shown.intersection(range(here.start, here.stop)):
                self._show(batch.documents[number - first], number=number)
        rules = state.rules[here]
        (goes,) = np.nonzero(rules != STAYS)
        others = np.searchsorted(self.firsts, state.like[here][goes], side="right") - 1
        heldout = np.asarray(self.heldout)[others]
        verdicts = cutter.judge(batch) if cutter else [KEPT] * len(batch.documents)
        for at, rule, of in zip(goes.tolist(), rules[goes].tolist(), heldout.tolist(), strict=True):
            verdicts[at] = VERDICTS[rule, of]
        return verdicts

    def _show(self, document: Document, *, number: int) -> None:
        content = {"id": document.id, "text": document.text[:EXAMPLE_CHARS]}
        folder = self.folder / "shown"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.json").write_text(json.dumps(content))
