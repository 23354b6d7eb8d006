# SPDX-License-Identifier: Apache-2.0
"""A step of curation: a verdict on every document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.sources import Kind, TextSource


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentVerdict:
    """What becomes of a document; ``KEPT``: it stays as it is."""

    rule: str = ""
    """What it was judged by, for the report: counted, with ten examples."""
    drops: bool = False
    document: Document | None = None
    """Instead of it; not where it is dropped."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """For the examples: what was found, such as a value and its limit."""
    note: Mapping[str, Any] | None = None
    """A line that the step itself reads again when all is judged: Applied.notes."""
    also: tuple[str, ...] = ()
    """Further rules by which it was changed; counted as well."""


KEPT = DocumentVerdict()


def dropped(rule: str, **detail: Any) -> DocumentVerdict:
    return DocumentVerdict(rule=rule, drops=True, detail=detail)


def changed(document: Document, *, rule: str, **detail: Any) -> DocumentVerdict:
    return DocumentVerdict(rule=rule, document=document, detail=detail)


def noted(rule: str, **detail: Any) -> DocumentVerdict:
    """The document stays as it is; the report says what was found."""
    return DocumentVerdict(rule=rule, detail=detail)


Judge = Callable[[DocumentBatch], Sequence[DocumentVerdict]]
"""A verdict for each document of a batch, the same whatever else is in the batch. Several threads
call it at once."""


class StepSettings(Protocol):
    """A step as it is configured; it is pickled, and opened once in each process."""

    @property
    def name(self) -> str:
        """As in the configuration."""

    @property
    def threads_max(self) -> int:
        """Of a process; 1: the step holds Python's lock nearly all the time."""

    def to_json(self) -> Mapping[str, Any]:
        """All that its verdicts depend on: settings, versions of libraries and of the step."""

    def concerns(self, source: TextSource) -> bool:
        """Other sources stay as they are, file by file."""

    def open(self) -> Judge: ...


def is_trained_on(source: TextSource) -> bool:
    return source.kind is not Kind.heldout
