# SPDX-License-Identifier: Apache-2.0
"""What the quickstart tells: the text it uses, and at the end what has become of the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KINDS = {
    "folio": "Domain: Shakespeare's First Folio of 1623, in its own spelling",
    "manuals": "General: manuals of cloud services (replayed, so as not to be forgotten)",
}


def corpus_lines(numbers: Mapping[str, Any]) -> Iterator[str]:
    for name, split in numbers.items():
        training, heldout, overlap = split["training"], split["heldout"], split["overlap"]
        yield KINDS[name]
        yield (
            f"  {training['documents']} documents to train on "
            f"({training['characters'] / 1e6:.1f} million characters), "
            f"{heldout['documents']} held out"
        )
        yield (
            f"  {overlap['removed']} of {overlap['paragraphs']:,} paragraphs removed as "
            f"near-duplicates of held-out text;"
        )
        yield (
            f"  {overlap['shared_after']:.1%} of the held-out five-word runs occur in what is left "
            f"({overlap['shared_before']:.1%} before)"
        )


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
