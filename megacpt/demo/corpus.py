# SPDX-License-Identifier: Apache-2.0
"""Write the demo's four JSONL files: two sources to train on and two held-out sets.

Held-out works are in no source: three plays of the domain, and Python's documentation, which is
general text by other authors than the replay source. Paragraphs of the sources that are
near-duplicates of any held-out work are removed. Of each held-out work an excerpt is measured,
because a laptop reads some hundred tokens a second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.demo import folio, manuals, python_docs
from megacpt.demo.overlap import Document, Overlap, without_near_duplicates
from megacpt.files import write_text

SUMMARY = "corpus.json"
"""Written last: where it exists, the files are complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What to train on and what to measure on, by file name, and what the two share."""

    sources: dict[str, list[Document]]
    heldout: dict[str, list[Document]]
    overlap: dict[str, Overlap]


def write_corpus(folder: Path) -> dict[str, Any]:
    """Write NAME.jsonl of every source and held-out set, unless done; the numbers about them."""
    summary = folder / SUMMARY
    if not summary.exists():
        corpus = make_corpus()
        for name, documents in (corpus.sources | corpus.heldout).items():
            lines = (json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)
            write_text(folder / f"{name}.jsonl", text="".join(lines))
        write_text(summary, text=json.dumps(_numbers(corpus), indent=2) + "\n")
    written: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return written


def make_corpus() -> Corpus:
    plays, pages = folio.plays(), python_docs.pages()
    training = {
        "folio": [play for name, play in plays.items() if name not in folio.HELD_OUT],
        "manuals": manuals.manuals(),
    }
    works = {"folio_heldout": [plays[name] for name in folio.HELD_OUT], "python_heldout": pages}
    everything = [work for documents in works.values() for work in documents]
    cleaned = {n: without_near_duplicates(d, heldout=everything) for n, d in training.items()}
    excerpts = {"folio_heldout": folio.EXCERPT, "python_heldout": python_docs.EXCERPT}
    return Corpus(
        sources={name: documents for name, (documents, _) in cleaned.items()},
        heldout={n: [_excerpt(w, characters=excerpts[n]) for w in d] for n, d in works.items()},
        overlap={name: overlap for name, (_, overlap) in cleaned.items()},
    )


def opening(text: str, *, characters: int) -> str:
    """The first whole paragraphs within ``characters``; the bare cut where there is none."""
    if len(text) <= characters:
        return text
    end = text.rfind("\n\n", 0, characters + 2)
    return text[: end if end > 0 else characters]


def _excerpt(work: Document, *, characters: int) -> Document:
    return replace(work, text=opening(work.text, characters=characters))


def _numbers(corpus: Corpus) -> dict[str, Any]:
    return {
        "sources": {
            name: _size(documents) | {"overlap": asdict(corpus.overlap[name])}
            for name, documents in corpus.sources.items()
        },
        "heldout": {name: _size(documents) for name, documents in corpus.heldout.items()},
    }


def _size(documents: Sequence[Document]) -> dict[str, Any]:
    return {"documents": len(documents), "characters": sum(len(d.text) for d in documents)}
