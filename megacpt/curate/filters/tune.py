# SPDX-License-Identifier: Apache-2.0
"""What the rules measure of a sample of the documents, for whoever chooses limits.

The sample is of all pieces, in proportion to their bytes; in each, the documents with the smallest
hashes of their ids. So it is the same however the work is shared, and of a bounded size.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xxhash

from megacpt.curate.config import CurateConfig
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.filters.rule import FilterRule
from megacpt.curate.filters.run import FilterStep, open_rules, require_sources
from megacpt.curate.filters.settings import FilterConfig
from megacpt.curate.filters.threshold import OPERATORS
from megacpt.curate.pipeline import Watcher, open_corpus
from megacpt.curate.sources import Corpus
from megacpt.curate.work import Reading, make_pieces
from megacpt.device.environment import num_cores

SAMPLE = 10_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitMeasures:
    """What one limit is compared with."""

    name: str
    """Of the setting."""
    documents: int
    """Of which it was measured."""
    quantiles: tuple[float, ...]
    """As in QUANTILES: each the value of a document."""
    sign: str
    """A value with this sign before the limit is beyond it."""
    limit: float | None
    beyond: float
    """Share of the documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    documents: int
    measured: tuple[LimitMeasures, ...]

    def lines(self) -> Iterator[str]:
        heads = "".join(f"{f'{q:.0%}':>9}" for q in QUANTILES)
        yield f"{f'of {self.documents:,} documents':<33}{heads}{'left out':>13}"
        for row in self.measured:
            values = "".join(f"{value:>9.3g}" for value in row.quantiles)
            limit = "" if row.limit is None else f"{row.sign} {row.limit:g}"
            share = "" if row.limit is None else f"{row.beyond:.2%}"
            yield f"{row.name:<33}{values}{limit:>13}{share:>8}".rstrip()


def tune(config: CurateConfig, *, sample: int = SAMPLE, watcher: Watcher | None = None) -> Tuning:
    """Measure ``sample`` documents, or all if there are fewer; nothing is written."""
    settings = config.filter or FilterConfig()
    with TemporaryDirectory() as scratch:
        corpus, _ = open_corpus(config, spool=Path(scratch))
        require_sources(corpus, settings=settings)
        step = FilterStep(settings=settings)
        names = [source.name for source in corpus.sources if step.concerns(source)]
        numbers = list(corpus.pieces_of(names))
        records = make_pieces(
            corpus,
            settings=_Measuring(step=step, shares=_shares(corpus, numbers=numbers, sample=sample)),
            folder=Path(scratch) / "measures",
            reading=Reading(
                workers=config.workers or num_cores(),
                threads_max=step.threads_max,
                on_error=config.on_error,
            ),
            numbers=numbers,
            report=(watcher or Watcher()).begins("filter", num_bytes=corpus.num_bytes),
        )
    return _tuning(records, settings=settings)


def _shares(corpus: Corpus, *, numbers: Sequence[int], sample: int) -> dict[int, int]:
    """Documents to measure of each piece, at most."""
    whole = max(sum(corpus.pieces[number].bytes for number in numbers), 1)
    return {number: -(-sample * corpus.pieces[number].bytes // whole) for number in numbers}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measuring:
    """What is made of a piece: numbers of some of its documents."""

    step: FilterStep
    shares: Mapping[int, int]

    def to_json(self) -> dict[str, Any]:
        return {"settings": dict(self.step.to_json()), "shares": list(self.shares.values())}

    def open(self) -> Callable[[Path], _Sample]:
        rules = open_rules(self.step.settings, is_measuring=True)
        return lambda stem: _Sample(rules, shares=self.shares)


class _Sample:
    """Those of the documents so far with the smallest hashes are kept, as what was measured."""

    def __init__(self, rules: Mapping[str, FilterRule], *, shares: Mapping[int, int]) -> None:
        self._rules, self._shares = rules, shares
        self._kept: list[tuple[int, str]] = []
        self._signs: dict[str, str] = {}

    def work(self, batch: DocumentBatch) -> DocumentBatch:
        return batch

    def settle(self, made: DocumentBatch) -> None:
        for document in made.documents:
            # The heap gives its largest hash away first.
            place = -xxhash.xxh3_64_intdigest(document.id.encode())
            if len(self._kept) < self._shares[made.piece]:
                heapq.heappush(self._kept, (place, self._measures(document)))
            elif self._kept and place > self._kept[0][0]:
                heapq.heapreplace(self._kept, (place, self._measures(document)))

    def _measures(self, document: Document) -> str:
        found, text = {}, document.text
        for section, rule in self._rules.items():
            for limit in rule.limits.values():
                limit.forget()
            if not text.strip():
                break
            text = rule(text).text
            for key, limit in rule.limits.items():
                if limit.seen is not None:
                    found[f"{section}.{key}"] = limit.seen
                    self._signs[f"{section}.{key}"] = limit.sign
        return json.dumps(found)

    def finish(self) -> dict[str, Any]:
        return {
            "measures": [json.loads(measures) for _, measures in sorted(self._kept)],
            "signs": self._signs,
        }


def _tuning(records: Sequence[Mapping[str, Any]], *, settings: FilterConfig) -> Tuning:
    measures = [one for record in records for one in record["measures"]]
    signs = {name: sign for record in records for name, sign in record["signs"].items()}
    limits = asdict(settings)
    rows = []
    for name, sign in signs.items():
        section, key = name.split(".")
        values = np.array([one[name] for one in measures if name in one])
        rows.append(_row(name, values=values, sign=sign, limit=limits[section][key]))
    sections = {name: keys for name, keys in limits.items() if isinstance(keys, dict)}
    order = [f"{name}.{key}" for name, keys in sections.items() for key in keys]
    rows.sort(key=lambda row: order.index(row.name))
    return Tuning(documents=len(measures), measured=tuple(rows))


def _row(name: str, *, values: Any, sign: str, limit: float | None) -> LimitMeasures:
    beyond = 0.0 if limit is None else float(np.mean(OPERATORS[sign](values, limit)))
    quantiles = np.quantile(values, QUANTILES, method="inverted_cdf")
    return LimitMeasures(
        name=name,
        documents=len(values),
        quantiles=tuple(float(value) for value in quantiles),
        sign=sign,
        limit=limit,
        beyond=beyond,
    )
