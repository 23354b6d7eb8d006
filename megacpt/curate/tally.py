# SPDX-License-Identifier: Apache-2.0
"""What a step has done, rule by rule, with examples: the same whatever the order of the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from megacpt.curate.documents import Document
from megacpt.curate.step import DocumentVerdict

EXAMPLES = 10
"""Kept of each rule: those with the smallest hashes of their lines."""
EXAMPLE_CHARS = 400


@dataclass(slots=True, kw_only=True)
class RuleCount:
    documents: int = 0
    dropped: int = 0
    bytes: int = 0
    """Of the texts, before."""
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: RuleCount) -> None:
        self.documents += other.documents
        self.dropped += other.dropped
        self.bytes += other.bytes
        self.examples = sorted([*self.examples, *other.examples], key=_place)[:EXAMPLES]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of a piece, a source or a step."""

    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rules: dict[str, RuleCount] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    """Lines that were no documents, by what is wrong with them."""

    def count(self, document: Document, *, verdict: DocumentVerdict) -> Document | None:
        """Take note of a verdict; what becomes of the document."""
        size = document.num_bytes
        self.documents_in += 1
        self.bytes_in += size
        for name in (verdict.rule, *verdict.also) if verdict.rule else ():
            self._count_rule(document, name=name, verdict=verdict, size=size)
        if verdict.drops:
            return None
        left = verdict.document or document
        self.documents_out += 1
        self.bytes_out += left.num_bytes
        return left

    def _count_rule(
        self, document: Document, *, name: str, verdict: DocumentVerdict, size: int
    ) -> None:
        rule = self.rules.setdefault(name, RuleCount())
        rule.documents += 1
        rule.dropped += verdict.drops
        rule.bytes += size
        place = xxhash.xxh3_64_hexdigest(document.json_line())
        if len(rule.examples) < EXAMPLES or place < rule.examples[-1]["place"]:
            example = {
                "place": place,
                "id": document.id,
                "text": document.text[:EXAMPLE_CHARS],
                **({"after": verdict.document.text[:EXAMPLE_CHARS]} if verdict.document else {}),
                **verdict.detail,
            }
            rule.examples = sorted([*rule.examples, example], key=_place)[:EXAMPLES]

    def add(self, other: Tally) -> None:
        for name in ("documents_in", "documents_out", "bytes_in", "bytes_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, rule in other.rules.items():
            self.rules.setdefault(name, RuleCount()).add(rule)
        for kind, num in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + num

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Tally:
        rules = {name: RuleCount(**rule) for name, rule in content["rules"].items()}
        return cls(**{**content, "rules": rules})


def total(tallies: Iterable[Tally]) -> Tally:
    found = Tally()
    for tally in tallies:
        found.add(tally)
    return found


def _place(example: Mapping[str, Any]) -> tuple[str, str]:
    return str(example["place"]), str(example["id"])
