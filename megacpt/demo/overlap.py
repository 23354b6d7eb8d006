# SPDX-License-Identifier: Apache-2.0
"""Keep held-out text out of training text: paragraphs that share its five-word shingles go.

Containment of a paragraph = share of its distinct runs of five words that also occur in the
held-out text. A paragraph of which at least half is contained is a near-duplicate and is removed
(Broder, "On the resemblance and containment of documents", 1997). What is left is measured from the
other side: the share of the held-out text's shingles that training text still holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SHINGLE_WORDS = 5
CONTAINMENT_MAX = 0.5
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedText:
    """A text and where it is from."""

    source: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What the removal did, in numbers that go into the report."""

    paragraphs: int
    """Of the training text, before."""
    removed: int
    """Paragraphs that were near-duplicates of held-out text."""
    shared_before: float
    """Share of the held-out text's shingles that also occur in the training text."""
    shared_after: float


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of five words, case and punctuation aside."""
    words = WORD.findall(text.lower())
    starts = range(len(words) - SHINGLE_WORDS + 1)
    return frozenset(hash(tuple(words[i : i + SHINGLE_WORDS])) for i in starts)


def without_near_duplicates(
    training: Sequence[SourcedText], *, heldout: Iterable[SourcedText]
) -> tuple[list[SourcedText], Overlap]:
    """The training documents without paragraphs that held-out text contains, and the numbers."""
    known = frozenset[int]().union(*(shingles(d.text) for d in heldout))
    kept: list[SourcedText] = []
    seen_before: set[int] = set()
    seen_after: set[int] = set()
    paragraphs = removed = 0
    for document in training:
        parts = document.text.split("\n\n")
        found = [shingles(part) for part in parts]
        left = [p for p, s in zip(parts, found, strict=True) if not _is_contained(s, known=known)]
        text = "\n\n".join(left)
        seen_before |= known & shingles(document.text)
        seen_after |= known & shingles(text)
        paragraphs += len(parts)
        removed += len(parts) - len(left)
        if text.strip():
            kept.append(replace(document, text=text))
    return kept, Overlap(
        paragraphs=paragraphs,
        removed=removed,
        shared_before=len(seen_before) / max(1, len(known)),
        shared_after=len(seen_after) / max(1, len(known)),
    )


def _is_contained(found: frozenset[int], *, known: frozenset[int]) -> bool:
    return bool(found) and len(found & known) >= CONTAINMENT_MAX * len(found)
