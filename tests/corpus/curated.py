# SPDX-License-Identifier: Apache-2.0
"""A folder as ``megacpt curate`` writes it, with an account of steps of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacpt.corpus.checksum import sha256_of
from megacpt.corpus.curation import CuratedFile, CuratedSource, Curation, CurationStep
from tests.corpus.cases import write_jsonl

SUITES = {"mmlu": {"identity": "ab" * 16, "items": 14042}}


def step(
    name: str,
    *sources: str,
    settings: Mapping[str, Any] | None = None,
    findings: Mapping[str, Any] | None = None,
) -> CurationStep:
    """A step that was done to these sources."""
    counts = {"documents_in": 9, "documents_out": 8, "bytes_in": 900, "bytes_out": 800}
    raw = CuratedFile(path="raw/law.jsonl", bytes=1000, sha256="cd" * 32)
    return CurationStep(
        name=name,
        settings=settings or {"threshold": 0.8, "version": 1},
        inputs=dict.fromkeys(sources, (raw,)),
        counts={source: {**counts, "rules": {}, "errors": {}} for source in sources},
        findings=findings or {},
    )


def decontaminated(*sources: str, action: str = "drop") -> CurationStep:
    return step("decontaminate", *sources, settings={"action": action}, findings={"suites": SUITES})


def write_curated(
    folder: Path,
    steps: Sequence[CurationStep],
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    history: Sequence[CurationStep] = (),
) -> Curation:
    """``texts``: by source, ``law`` with two where none are given."""
    sources = {}
    for name, content in (texts or {"law": ["a law of the land", "another one"]}).items():
        (folder / name).mkdir(parents=True)
        path = write_jsonl(folder / name / "00000.jsonl", content)
        file = CuratedFile(
            path=f"{name}/00000.jsonl", bytes=path.stat().st_size, sha256=sha256_of(path)
        )
        sources[name] = CuratedSource(
            kind="domain",
            files=(file,),
            documents=len(content),
            bytes=sum(map(len, content)),
            history=tuple(history),
        )
    found = Curation(megacpt="0.1.0", sources=sources, steps=tuple(steps))
    found.write(folder)
    return found
