# SPDX-License-Identifier: Apache-2.0
"""Write the demo's four JSONL files: training and held-out text of domain and general.

Whole works are held out: a play or a manual is in one file alone. Paragraphs of the training text
that are near-duplicates of held-out works are removed. Of each held-out work one excerpt is
measured, because a laptop reads some hundred tokens a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.config.atomic import write_text
from megacpt.demo import folio, manuals
from megacpt.demo.overlap import Document, Overlap, without_near_duplicates

SUMMARY = "corpus.json"
"""Written last: where it exists, the files are complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One kind of text: what is trained on, what is measured on, and what they share."""

    training: list[Document]
    heldout: list[Document]
    overlap: Overlap


def write_corpus(folder: Path) -> dict[str, Any]:
    """``folio``, ``manuals``, ``folio_heldout`` and ``manuals_heldout``, unless already there."""
    summary = folder / SUMMARY
    if not summary.exists():
        numbers = {name: _write(split, folder / name) for name, split in splits().items()}
        write_text(summary, json.dumps(numbers, indent=2) + "\n")
    written: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return written


def splits() -> dict[str, Split]:
    plays, services = folio.plays(), manuals.manuals()
    return {
        "folio": split(plays, heldout=folio.HELD_OUT, excerpt=folio.EXCERPT),
        "manuals": split(
            services, heldout=manuals.held_out(list(services)), excerpt=manuals.EXCERPT
        ),
    }


def split(documents: Mapping[str, Document], *, heldout: Sequence[str], excerpt: int) -> Split:
    """``excerpt``: characters of each held-out work that are measured."""
    held = [documents[name] for name in heldout]
    training = [d for name, d in documents.items() if name not in heldout]
    kept, overlap = without_near_duplicates(training, heldout=held)
    measured = [replace(d, text=opening(d.text, characters=excerpt)) for d in held]
    return Split(training=kept, heldout=measured, overlap=overlap)


def opening(text: str, *, characters: int) -> str:
    """The first whole paragraphs within ``characters``."""
    if len(text) <= characters:
        return text
    end = text.rfind("\n\n", 0, characters)
    return text[: end if end > 0 else characters]


def _write(split: Split, prefix: Path) -> dict[str, Any]:
    """Write both files of ``split``; the numbers about them."""
    write_text(prefix.with_name(f"{prefix.name}.jsonl"), _lines(split.training))
    write_text(prefix.with_name(f"{prefix.name}_heldout.jsonl"), _lines(split.heldout))
    return {
        "training": _size(split.training),
        "heldout": _size(split.heldout),
        "overlap": asdict(split.overlap),
    }


def _lines(documents: Sequence[Document]) -> str:
    return "".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)


def _size(documents: Sequence[Document]) -> dict[str, int]:
    return {"documents": len(documents), "characters": sum(len(d.text) for d in documents)}
