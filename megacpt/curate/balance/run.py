# SPDX-License-Identifier: Apache-2.0
"""Measure, plan, sample down, and write the blend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from megacpt.curate.apply import apply_step
from megacpt.curate.balance.blend import BLEND, blend_text, table
from megacpt.curate.balance.measure import PLACES, measure, place_of
from megacpt.curate.balance.portions import Portion, portions, ratio_of, remarks
from megacpt.curate.balance.settings import BalanceConfig
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, dropped, is_trained_on

VERSION = 1
"""Of places and of what is made of them."""


def run(corpus: Corpus, *, settings: BalanceConfig, context: Context) -> StepOutcome:
    measured, fingerprint = measure(corpus, settings=settings, context=context)
    planned = portions(measured, settings=settings)
    step = Sampling(
        below={p.name: p.below for p in planned},
        sources=tuple(piece.source.name for piece in corpus.pieces),
        settings=settings,
        tokenizer=fingerprint,
    )
    result = apply_step(corpus, step=step, context=replace(context, folder=context.folder / "kept"))
    found = [_sampled(p, counts=result.record.counts[p.name]) for p in planned]
    told = list(remarks(found, settings=settings))
    for sentence in told:
        context.notice(sentence)
    path = context.put(BLEND, text=blend_text(found, settings=settings))
    record = replace(
        result.record, findings=_findings(found, in_tokens=fingerprint is not None, told=told)
    )
    return replace(result, record=record, files={BLEND: path})


def _sampled(portion: Portion, *, counts: Mapping[str, Any]) -> Portion:
    share = counts["bytes_out"] / counts["bytes_in"]
    return replace(portion, kept=portion.available * share)


def _findings(found: Sequence[Portion], *, in_tokens: bool, told: Sequence[str]) -> dict[str, Any]:
    return {
        "unit": "tokens" if in_tokens else "bytes",
        "ratio": ratio_of(found),
        "portions": {
            p.name: {
                "kind": p.kind.value,
                "available": p.available,
                "kept": round(p.kept),
                "in_run": round(p.wanted),
                "epochs": p.epochs,
            }
            for p in found
        },
        "advice": list(told),
        "table": list(table(found, in_tokens=in_tokens)),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Keeps the documents whose places are below what their source's portion says."""

    below: Mapping[str, int]
    sources: tuple[str, ...]
    """Of each piece."""
    settings: BalanceConfig
    tokenizer: str | None
    """Fingerprint of what counted the tokens."""
    name: str = "balance"
    threads_max: int = 1

    def to_json(self) -> dict[str, Any]:
        found = asdict(self.settings) | {"tokenizer": self.tokenizer, "version": VERSION}
        del found["shards"]  # They are not there yet.
        return {**found, "below": dict(self.below)}

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        return self._judge

    def _judge(self, batch: DocumentBatch) -> Sequence[DocumentVerdict]:
        limit = self.below[self.sources[batch.piece]]
        if limit >= PLACES:
            return [KEPT] * len(batch.documents)
        return [KEPT if place_of(d) < limit else _SAMPLED_DOWN for d in batch.documents]


_SAMPLED_DOWN = dropped("sampled_down")
