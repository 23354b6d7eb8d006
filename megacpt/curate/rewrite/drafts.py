# SPDX-License-Identifier: Apache-2.0
"""What becomes of a document by itself: the text of its record, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from megacpt.curate.documents import Document
from megacpt.curate.rewrite.markup import read_markup
from megacpt.curate.rewrite.settings import RawPairs, RewriteConfig
from megacpt.curate.rewrite.shapes import RECORD, is_pair, of_json, plain_text
from megacpt.curate.rewrite.templates import Templates

MADE = "rewritten"
"""Field of a document that says how its text was made."""


class Draft(NamedTuple):
    document: Document
    rule: str = ""
    """By which it has changed, or is left out."""
    drops: bool = False
    detail: Mapping[str, Any] = {}

    def with_text(self, text: str, *, rule: str, **made: str) -> Draft:
        """Changed once more."""
        before = self.document.fields.get(MADE)
        note = {**(before if isinstance(before, dict) else {}), **made}
        document = self.document.with_text(text, **{MADE: note})
        return Draft(document, rule=f"{self.rule}, {rule}" if self.rule else rule)

    def noting(self, rule: str, **detail: Any) -> Draft:
        rule = f"{self.rule}, {rule}" if self.rule else rule
        return self._replace(rule=rule, detail={**self.detail, **detail})


class Drafter:
    """Makes the text of records, and of texts that are conversations in marks."""

    def __init__(self, settings: RewriteConfig) -> None:
        self._seed = settings.seed
        self._rewrites = settings.raw_pairs is RawPairs.refuse
        self._templates = Templates(settings.templates)

    def __call__(self, document: Document) -> Draft:
        record, source = document.fields.get(RECORD), ""
        if not is_pair(record):
            is_made = MADE in document.fields
            found = None if is_made or not self._rewrites else read_markup(document.text)
            if found is None:
                return Draft(document)
            record, source = found.to_json(), "marked "
        assert isinstance(record, dict)
        bare = _without_record(document)
        if not self._rewrites:
            return Draft(bare, rule=f"raw {record['shape']}")
        if not source and document.text != plain_text(of_json(record)):
            # What was cut or masked must not come back from the record.
            return Draft(bare, rule=f"{record['shape']} as an earlier step left it")
        if not _is_answered(record):
            return Draft(document, rule=f"{source}{record['shape']} without an answer", drops=True)
        name = self._templates.choose(record["shape"], id=document.id, seed=self._seed)
        text = self._templates.render(name, record=record, id=document.id)
        made = f"{record['shape']}.{name}"
        return Draft(bare).with_text(text, rule=f"{source}{made}", template=made)


def _without_record(document: Document) -> Document:
    fields = {name: value for name, value in document.fields.items() if name != RECORD}
    return Document({"id": document.id} | fields, key=document.key)


def _is_answered(record: Mapping[str, Any]) -> bool:
    if record["shape"] == "dialogue":
        return len(record["turns"]) > 1
    return bool(record.get("answer", record.get("output", True)))
