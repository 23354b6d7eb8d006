# SPDX-License-Identifier: Apache-2.0
"""What the quickstart tells: the text it uses, and at the end what has become of the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KINDS = {
    "folio": "plays of Shakespeare's First Folio of 1623: the domain",
    "manuals": "manuals of cloud services: replay, against forgetting",
    "folio_heldout": "other plays of the Folio (openings): measured only",
    "python_heldout": "pages of Python's manual (openings): measured only",
}


def corpus_lines(numbers: Mapping[str, Any]) -> Iterator[str]:
    """A line a file, for 80 columns, and below a source what it shares with held-out works."""
    for name, found in (numbers["sources"] | numbers["heldout"]).items():
        yield f"{name:<16}{found['documents']:>4} {KINDS[name]}"
        if "overlap" in found:
            removed, shared = found["overlap"]["removed"], found["overlap"]["shared_after"]
            yield f"{'':<21}{removed} near-duplicates of held-out paragraphs removed,"
            yield f"{'':<21}{shared:.2%} of held-out five-word runs still in it"


def closing_table(run: Path, *, megacpt: str) -> str:
    """Figures of report.json, and what to do next."""
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    rows = [_row(change) for change in report["heldout"].values()]
    folder = run / "hf"
    return "\n".join(
        [
            "",
            f"{'held-out perplexity':<24}{'base':>9}{'final':>9}{'final/base':>12}",
            *rows,
            f"{'forgetting':<24}{report['forgetting']:>+30.4f} nats a token",
            f"gate declared before training: {report['gate']['verdict']}",
            "",
            f"Hugging Face folder  {folder}",
            f"Report               {run / 'report.html'}",
            "",
            'Next, your own text: one JSON object a line, {"text": "..."}; then',
            f"  {megacpt} tokenize YOUR.jsonl --tokenizer {folder} --output data/yours",
        ]
    )


def _row(change: Mapping[str, Any]) -> str:
    base, final = change["base"]["perplexity"], change["final"]["perplexity"]
    return f"{change['role']:<24}{base:>9.2f}{final:>9.2f}{change['ratio']:>12.3f}"
