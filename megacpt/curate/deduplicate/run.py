# SPDX-License-Identifier: Apache-2.0
"""Deduplicate a corpus: a sketch of every document, who goes, and what is left.

Held-out sets take part: nothing of them goes, and what is like them does.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.corpus.workers.processes import THREADS_MAX
from megacpt.curate.apply import apply_step
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.deduplicate.alike import NEAR, STAYS, Near, State, drop_exact
from megacpt.curate.deduplicate.curve import Curve, choose_curve
from megacpt.curate.deduplicate.files import PieceArrays
from megacpt.curate.deduplicate.judge import LeaveOut
from megacpt.curate.deduplicate.lines import FILES as LINE_FILES
from megacpt.curate.deduplicate.lines import LineSettings, RepeatedLines, Repeats
from megacpt.curate.deduplicate.settings import DeduplicateConfig
from megacpt.curate.deduplicate.sketches import Sketches, SketchSettings
from megacpt.curate.sources import Corpus, Kind
from megacpt.curate.tally import EXAMPLES
from megacpt.curate.work import make_once, make_pieces


def run(corpus: Corpus, *, settings: DeduplicateConfig, context: Context) -> StepOutcome:
    near = settings.near
    curve = choose_curve(near) if near else None
    sketch = SketchSettings(
        kinds=tuple(piece.source.kind for piece in corpus.pieces),
        keep=settings.keep,
        score_key=settings.score_key,
        words=near.words if near else 1,
        bands=curve.bands if curve else 0,
        rows=curve.rows if curve else 0,
    )
    records = make_pieces(
        corpus,
        settings=sketch,
        folder=context.folder / "sketches",
        reading=replace(context.reading, threads_max=THREADS_MAX),
        report=context.report,
    )
    sketches = Sketches(context.folder / "sketches", records=records, keep=settings.keep)
    stated = {**sketch.to_json(), **_stated(settings)}
    once = partial(make_once, corpus, settings=stated, reading=context.reading)
    found = context.folder / "found"
    once(folder=found, make=lambda: _find(sketches, settings=settings, curve=curve, folder=found))
    state = State.read(found)
    lines = _lines(
        corpus, sketches=sketches, state=state, settings=settings, context=context, once=once
    )
    pairs = dict(_pairs_to_show(sketches, state=state))
    step = LeaveOut(
        folder=found,
        firsts=tuple(sketches.firsts),
        heldout=tuple(piece.source.kind is Kind.heldout for piece in corpus.pieces),
        lines=lines,
        sizes=sketches.file("bytes"),
        shown=frozenset(pairs) | frozenset(pairs.values()),
        settings=stated,
    )
    reading = replace(context.reading, as_written=sketches.as_written)
    result = apply_step(
        corpus, step=step, context=replace(context, folder=context.folder / "left", reading=reading)
    )
    findings = {
        "documents": sketches.num_documents,
        **({"curve": curve.table()} if curve else {}),
        "side_by_side": list(_side_by_side(pairs, sketches=sketches, folder=found)),
    }
    return StepOutcome(corpus=result.corpus, record=replace(result.record, findings=findings))


def _stated(settings: DeduplicateConfig) -> dict[str, Any]:
    near = settings.near
    return {
        "exact": settings.exact,
        "near": {"threshold": near.threshold, "chains": near.chains} if near else None,
        "lines": asdict(settings.lines) if settings.lines else None,
    }


def _lines(
    corpus: Corpus,
    *,
    sketches: Sketches,
    state: State,
    settings: DeduplicateConfig,
    context: Context,
    once: Callable[..., None],
) -> RepeatedLines | None:
    """Those of documents that stay which were there before."""
    if settings.lines is None:
        return None
    records = make_pieces(
        corpus,
        settings=LineSettings(words=settings.lines.words),
        folder=context.folder / "lines",
        reading=replace(context.reading, threads_max=THREADS_MAX),
        report=context.report,
    )
    arrays = PieceArrays(folder=context.folder / "lines", kinds=LINE_FILES, records=records)
    repeats = Repeats(
        arrays=arrays,
        sketches=sketches,
        state=state,
        folder=context.folder / "repeats" / "keys",
        memory_bytes=settings.memory_mib << 20,
    )
    flags = context.folder / "repeats" / "flags"
    once(folder=flags.parent, make=lambda: repeats.find(flags))
    return RepeatedLines(arrays=arrays, flags=flags, settings=settings.lines)


def _find(
    sketches: Sketches, *, settings: DeduplicateConfig, curve: Curve | None, folder: Path
) -> None:
    """Who goes."""
    state = State.begin(folder, num_documents=sketches.num_documents)
    memory_bytes = settings.memory_mib << 20
    if settings.exact:
        drop_exact(sketches, state=state, folder=folder / "exact", memory_bytes=memory_bytes)
    if settings.near is not None and curve is not None:
        near = Near(
            sketches=sketches,
            state=state,
            folder=folder / "near",
            bands=curve.bands,
            threshold=settings.near.threshold,
            memory_bytes=memory_bytes,
        )
        if settings.near.chains:
            near.drop_chains()
        else:
            near.drop()
    state.flush()


def _pairs_to_show(sketches: Sketches, *, state: State) -> Iterator[tuple[int, int]]:
    """A few near duplicates, each with what stays instead: the same whatever the order of files."""
    best: list[tuple[int, int]] = []
    for first, hashes in sketches.arrays("exact"):
        near = np.flatnonzero(state.rules[first : first + len(hashes)] == NEAR)
        places = hashes[near, 1]
        few = np.argsort(places)[:EXAMPLES]
        mine = zip(places[few].tolist(), (first + near[few]).tolist(), strict=True)
        best = heapq.nsmallest(EXAMPLES, [*best, *mine])
    for _, document in best:
        other = int(state.like[document])
        while state.rules[other] != STAYS:
            other = int(state.like[other])
        yield document, other


def _side_by_side(
    pairs: Mapping[int, int], *, sketches: Sketches, folder: Path
) -> Iterator[dict[str, Any]]:
    if not pairs:
        return
    shingles = sketches.shingle_files()
    for document, other in pairs.items():
        yield {
            "similarity": round(shingles.similarity(document, other), 4),
            "goes": _shown(document, folder=folder),
            "stays": _shown(other, folder=folder),
        }


def _shown(document: int, *, folder: Path) -> dict[str, str] | None:
    """None: of a held-out set, whose text is not read again."""
    try:
        found: dict[str, str] = json.loads((folder / "shown" / f"{document}.json").read_text())
    except FileNotFoundError:
        return None
    return found
