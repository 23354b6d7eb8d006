# SPDX-License-Identifier: Apache-2.0
"""How much text each source holds, and of how many tokens, counted on a sample.

A document's place is 32 bits of a hash of its id: the sample is the documents whose places are
lowest, and so is what sampling down keeps. Neither depends on the order of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from megacpt.corpus.workers.processes import THREADS_MAX
from megacpt.curate.balance.settings import BalanceConfig
from megacpt.curate.context import Context
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.sources import Corpus, Kind, TextSource
from megacpt.curate.step import is_trained_on
from megacpt.curate.work import make_pieces
from megacpt.errors import DataError
from megacpt.tokenizer import load_tokenizer
from megacpt.tokenizer.backend import EncodeError, encode_each

PLACES = 1 << 32
OCTAVES, PARTS = 12, 64
_HALF = PLACES >> 1
EDGES = [
    *(
        (_HALF >> octave) * (PARTS + part) // PARTS
        for octave in reversed(range(OCTAVES))
        for part in range(PARTS)
    ),
    PLACES,
]
"""Ends of the bins of places whose bytes are counted: a little may be wanted of much."""
WIDER = 16
"""A sample that holds no document is drawn again from so many times the places."""


def place_of(document: Document) -> int:
    return xxhash.xxh3_64_intdigest(document.id.encode("utf-8", "surrogatepass")) >> 32


@dataclass(slots=True, kw_only=True)
class Counts:
    """Of a batch, a piece or a source."""

    documents: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * len(EDGES))
    """UTF-8 bytes of the texts."""
    sample_documents: int = 0
    sample_bytes: int = 0
    sample_tokens: int = 0
    """As a shard would hold them."""

    def add(self, other: Counts) -> None:
        self.documents += other.documents
        self.bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]
        self.sample_documents += other.sample_documents
        self.sample_bytes += other.sample_bytes
        self.sample_tokens += other.sample_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSize:
    """A source."""

    name: str
    kind: Kind
    counts: Counts

    @property
    def bytes(self) -> int:
        return sum(self.counts.bins)

    @property
    def tokens(self) -> int | None:
        """As a shard would hold them; None where none were counted."""
        counts = self.counts
        if not counts.sample_tokens:
            return None
        return round(self.bytes * counts.sample_tokens / counts.sample_bytes)

    def amount(self, *, in_tokens: bool) -> int:
        """Tokens, or bytes."""
        found = self.tokens if in_tokens else self.bytes
        if not found:
            raise DataError(
                f"sources.{self.name} holds no text that balance could count; leave it out."
            )
        return found


def measure(
    corpus: Corpus, *, settings: BalanceConfig, context: Context
) -> tuple[list[SourceSize], str | None]:
    """All sources that are trained on, and the tokenizer's fingerprint."""
    tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else None
    sources = [source for source in corpus.sources if is_trained_on(source)]
    below = {source.name: _sampled(source, settings=settings) for source in sources}
    for attempt in count():
        job = _Measuring(
            tokenizer=settings.tokenizer,
            fingerprint=tokenizer.fingerprint if tokenizer else None,
            below=below if tokenizer else dict.fromkeys(below, 0),
            sources=tuple(piece.source.name for piece in corpus.pieces),
        )
        folder = context.folder / f"measured-{attempt}"
        found = list(_measured(corpus, job=job, folder=folder, context=context))
        missed = [m.name for m in found if tokenizer and _may_be_wider(m, below=below)]
        if not missed:
            break
        below |= {name: min(below[name] * WIDER, PLACES) for name in missed}
    return found, job.fingerprint


def _sampled(source: TextSource, *, settings: BalanceConfig) -> int:
    share = settings.sample_mb * 1e6 / max(sum(file.bytes for file in source.files), 1)
    return max(min(round(share * PLACES), PLACES), 1)


def _may_be_wider(found: SourceSize, *, below: Mapping[str, int]) -> bool:
    return not found.counts.sample_tokens and below[found.name] < PLACES


def _measured(
    corpus: Corpus, *, job: _Measuring, folder: Path, context: Context
) -> Iterator[SourceSize]:
    names = list(job.below)
    numbers = list(corpus.pieces_of(names))
    records = make_pieces(
        corpus,
        settings=job,
        folder=folder,
        reading=replace(context.reading, threads_max=THREADS_MAX if job.tokenizer else 1),
        numbers=numbers,
        report=context.report,
    )
    counts = {name: Counts() for name in names}
    for number, record in zip(numbers, records, strict=True):
        counts[job.sources[number]].add(Counts(**record["counts"]))
    for source in filter(is_trained_on, corpus.sources):
        if not counts[source.name].documents:
            raise DataError(f"sources.{source.name} holds no documents; leave it out.")
        yield SourceSize(name=source.name, kind=source.kind, counts=counts[source.name])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measuring:
    """What is made of a piece: its counts."""

    tokenizer: str | None
    fingerprint: str | None
    below: Mapping[str, int]
    """Source -> the place from which on a document is not in the sample."""
    sources: tuple[str, ...]
    """Of each piece."""

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": self.fingerprint, "sample": dict(self.below), "bins": len(EDGES)}

    def open(self) -> Callable[[Path], _Piece]:
        count = _no_tokens if self.tokenizer is None else _TokenCounter(self.tokenizer)
        return partial(_Piece, settings=self, count=count)


def _no_tokens(_texts: Sequence[str]) -> list[int]:
    return []


class _TokenCounter:
    """Counts what each text would be in a shard, EOS included."""

    def __init__(self, path: str) -> None:
        tokenizer = load_tokenizer(path)
        self._backend, self._ends = tokenizer.backend, int(tokenizer.eos_id is not None)

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """0 of one that cannot be encoded, which a shard leaves out."""
        rows = encode_each(texts, encoder=self._backend, special=True) if texts else []
        return [0 if isinstance(row, EncodeError) else row.size + self._ends for row in rows]


class _Piece:
    def __init__(
        self,
        _stem: Path,
        *,
        settings: _Measuring,
        count: Callable[[Sequence[str]], list[int]],
    ) -> None:
        self._settings = settings
        self._count, self._counts = count, Counts()

    def work(self, batch: DocumentBatch) -> Counts:
        places = [place_of(document) for document in batch.documents]
        sizes = [document.num_bytes for document in batch.documents]
        below = self._settings.below[self._settings.sources[batch.piece]]
        sampled = [n for n, place in enumerate(places) if place < below]
        tokens = self._count([batch.documents[n].text for n in sampled])
        bins = np.zeros(len(EDGES), dtype=np.int64)
        np.add.at(bins, np.searchsorted(EDGES, places, side="right"), sizes)
        return Counts(
            documents=len(places),
            bins=bins.tolist(),
            sample_documents=len(sampled),
            sample_bytes=sum(sizes[n] for n in sampled),
            sample_tokens=sum(tokens),
        )

    def settle(self, made: Counts) -> None:
        self._counts.add(made)

    def finish(self) -> dict[str, Any]:
        return {"counts": asdict(self._counts)}
