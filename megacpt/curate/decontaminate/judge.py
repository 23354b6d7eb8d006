# SPDX-License-Identifier: Apache-2.0
"""What becomes of a document that holds parts of suites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from megacpt.curate import words
from megacpt.curate.decontaminate.items import ItemSuite
from megacpt.curate.decontaminate.search import Found, Search
from megacpt.curate.decontaminate.settings import Action, DecontaminateConfig
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.sources import TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, changed, dropped, is_trained_on, noted

SHOWN_CHARS = 200
VERSION = 1
"""Of what is found by the same settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontamination:
    """The step; held-out sources are not looked at."""

    suites: tuple[ItemSuite, ...]
    settings: DecontaminateConfig
    name: str = "decontaminate"
    threads_max: int = 2

    def to_json(self) -> dict[str, Any]:
        settings = asdict(self.settings) | {"action": self.settings.action.value}
        settings["suites"] = {suite.name: suite.identity for suite in self.suites}
        return {"version": VERSION, **words.STATED, **settings}

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        search = Search(self.suites, settings=self.settings)
        return partial(_judge, search=search, suites=self.suites, action=self.settings.action)


def _judge(
    batch: DocumentBatch, *, search: Search, suites: Sequence[ItemSuite], action: Action
) -> list[DocumentVerdict]:
    found = search([document.text for document in batch.documents])
    verdicts = [KEPT] * len(batch.documents)
    for number, parts in found.items():
        document = batch.documents[number]
        rule = f"{suites[parts[0].suite].name} {parts[0].part.name}"
        hits = list(_told(parts, text=document.text, suites=suites))
        told = {**hits[0], "others": len(hits) - 1}
        verdict = _verdict(
            document, parts=parts, rule=rule, told=told, search=search, action=action
        )
        verdicts[number] = replace(verdict, note={"id": document.id, "hits": hits})
    return verdicts


def _verdict(
    document: Document,
    *,
    parts: Sequence[Found],
    rule: str,
    told: Mapping[str, Any],
    search: Search,
    action: Action,
) -> DocumentVerdict:
    match action:
        case Action.drop:
            return dropped(rule, **told)
        case Action.report:
            return noted(rule, **told)
        case Action.cut:
            text = _without(document.text, parts=parts, search=search)
            if not text.strip():
                return dropped(rule, **told)
            return changed(document.with_text(text), rule=rule, **told)
        case Action.mask:
            spans = [span for part in parts for span in part.spans]
            return changed(document.without_learning(spans), rule=rule, **told)


def _without(text: str, *, parts: Sequence[Found], search: Search) -> str:
    """Again until nothing is found: what a cut brings together may be a part, too."""
    while parts:
        first, *others = _pieces(text, parts=parts)
        text = first
        for piece in others:
            text = _joined(text, after=piece)
        parts = search([text]).get(0, [])
    return text


def _pieces(text: str, *, parts: Sequence[Found]) -> Iterator[str]:
    """What is between the spans."""
    end = 0
    for start, stop in sorted(span for part in parts for span in part.spans):
        if start >= end:
            yield text[end:start]
        end = max(end, stop)
    yield text[end:]


def _joined(before: str, *, after: str) -> str:
    """Over one blank; over a line break, or an empty line, where there were some."""
    left, right = before.rstrip(), after.lstrip()
    blanks = before[len(left) :] + after[: len(after) - len(right)]
    between = "\n" * min(blanks.count("\n"), 2) or " "
    return left + (between if left and right else "") + right


def _told(
    parts: Sequence[Found], *, text: str, suites: Sequence[ItemSuite]
) -> Iterator[dict[str, Any]]:
    """For the account."""
    for part in parts:
        start, stop = part.spans[0]
        yield {
            "suite": suites[part.suite].name,
            "item": part.item,
            "part": part.part.name,
            "share": part.share,
            "found": text[start:stop][:SHOWN_CHARS],
        }
