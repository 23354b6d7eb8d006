# SPDX-License-Identifier: Apache-2.0
"""Decontaminate a corpus, and write decontamination.json: what of which suite was in it."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import xxhash

from megacpt.curate.apply import Applied, apply, record_of
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.decontaminate.items import ItemPart, ItemSuite
from megacpt.curate.decontaminate.judge import Decontamination
from megacpt.curate.decontaminate.search import Search
from megacpt.curate.decontaminate.settings import DecontaminateConfig
from megacpt.curate.decontaminate.suites import read_suite
from megacpt.curate.documents import text_id
from megacpt.curate.sources import Corpus
from megacpt.errors import ConfigError

REPORT = "decontamination.json"


def run(corpus: Corpus, *, settings: DecontaminateConfig, context: Context) -> StepOutcome:
    if not settings.suites:
        raise ConfigError(
            "decontaminate.suites names no suite; name the benchmarks, as in "
            "decontaminate.suites.mmlu.path=mmlu."
        )
    suites = tuple(
        read_suite(name, settings=suite, notice=context.notice)
        for name, suite in settings.suites.items()
    )
    step = Decontamination(suites=suites, settings=settings)
    applied = apply(corpus, step=step, context=context)
    found = _findings(applied, suites=suites, settings=settings)
    hits, left_out = _hits(applied, limit=settings.hits)
    content = {
        "settings": step.to_json(),
        "suites": found,
        "hits": hits,
        "hits_left_out": left_out,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path = context.put(REPORT, text=text)
    findings = {
        "suites": {name: _without(about, key="items_found") for name, about in found.items()},
        "report": {"path": REPORT, "xxh3_128": text_id(text)},
        "table": list(_table(found)),
    }
    return StepOutcome(
        corpus=applied.corpus,
        record=record_of(applied, step=step, findings=findings),
        files={REPORT: path},
    )


def _table(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """For the terminal."""
    yield f"    {'suite':<26}{'items':>12}{'looked for':>12}{'found':>12}{'documents':>12}"
    for name, about in found.items():
        numbers = (about["items"], about["searched"], about["num_items_found"])
        columns = "".join(f"{n:>12,}" for n in (*numbers, about["documents_found"]["any"]))
        yield f"    {name:<26}{columns}"
    yield f"    each of them: {REPORT}"


def _without(about: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != key}


def _findings(
    applied: Applied, *, suites: Sequence[ItemSuite], settings: DecontaminateConfig
) -> dict[str, dict[str, Any]]:
    """By suite: what of it is looked for, and what was found."""
    counts = Search(suites, settings=settings).counts
    items: dict[str, set[int]] = {suite.name: set() for suite in suites}
    documents = {suite.name: dict.fromkeys(("any", *ItemPart.__members__), 0) for suite in suites}
    for note in _notes(applied):
        seen = {(hit["suite"], hit["part"]) for hit in note["hits"]}
        for suite, part in seen | {(suite, "any") for suite, _ in seen}:
            documents[suite][part] += 1
        for hit in note["hits"]:
            items[hit["suite"]].add(hit["item"])
    return {
        suite.name: {
            "source": suite.source,
            "identity": suite.identity,
            **asdict(counts[suite.name]),
            "documents_found": documents[suite.name],
            "num_items_found": len(items[suite.name]),
            "items_found": sorted(items[suite.name]),
        }
        for suite in suites
    }


def _hits(applied: Applied, *, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Those of the documents with the smallest hashes, whatever the order of files; and how many
    more there are."""
    total = 0

    def placed() -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        nonlocal total
        for note in _notes(applied):
            place = xxhash.xxh3_64_hexdigest(note["id"].encode())
            for number, hit in enumerate(note["hits"]):
                total += 1
                yield place, note["source"], number, {**_without(note, key="hits"), **hit}

    found = heapq.nsmallest(limit, placed(), key=lambda hit: (hit[0], hit[1], hit[3]["id"], hit[2]))
    return [hit for *_, hit in found], total - len(found)


def _notes(applied: Applied) -> Iterator[dict[str, Any]]:
    for source, paths in applied.notes.items():
        for path in paths:
            yield from ({"source": source, **note} for note in _lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        yield from map(orjson.loads, stream)
