# SPDX-License-Identifier: Apache-2.0
"""What is in a token shard: lengths, vocabulary, ends of documents, samples, where it comes from.

Works on shards of other tools too, which have no manifest. The index is read whole; of a large
shard's tokens a sample is read, spans at equal distances, unless all are asked for. Memory is
bounded in both cases.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.errors import ConfigError
from megacpt.shards.lengths import LengthCounter, LengthStatistics
from megacpt.shards.loss_mask import num_learned, open_mask
from megacpt.shards.manifest import Manifest, identity_of, read_shard_manifest, require_own
from megacpt.shards.reader import IndexedShard
from megacpt.tokenizer import Tokenizer

SPAN = 1 << 20
"""Tokens, or documents, in memory at once."""
SAMPLED_TOKENS = 64 * SPAN
IDS_MAX = 1 << 22
"""Larger ids are not counted one by one: no tokenizer has so many."""
TOP = 10
SHOWN_TOKENS = 200
"""Tokens shown of a document's beginning, with ENDING_TOKENS of its end."""
ENDING_TOKENS = 16

Ids = npt.NDArray[np.integer[Any]]
Progress = Callable[[int, int], None]
"""Called with the tokens read and those to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdCount:
    """``text`` is known where a tokenizer is given."""

    id: int
    count: int
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyUse:
    vocab_size: int | None
    tokens_counted: int
    ids_used: int
    ids_for_99_percent: int
    """Number of the most frequent ids that make 99 % of the tokens within the vocabulary."""
    largest_id: int | None
    outside: int
    """Tokens whose id is negative or not below ``vocab_size``: the shard cannot be trained on."""
    top: tuple[IdCount, ...]
    outside_range: tuple[int, int] | None = None
    """The least and the largest id of those outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEnds:
    """Documents that end in the tokens counted, and those whose last id is EOS."""

    eos_id: int
    documents: int
    with_eos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDocument:
    """The text of a document; a long one has its first tokens in ``text``, its last in ``end``."""

    document: int
    tokens: int
    text: str
    end: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    prefix: str
    dtype: str
    bin_bytes: int
    idx_bytes: int
    sequences: int
    lengths: LengthStatistics
    vocabulary: VocabularyUse
    ends: DocumentEnds | None
    """None where neither manifest nor tokenizer names an EOS id."""
    samples: tuple[ShownDocument, ...]
    manifest: Manifest | None
    learned: int | None = None
    """Tokens that its mask marks; None where it has no mask."""
    verified: bool = False
    """Whether the caller has compared both files with the manifest's checksums."""

    @property
    def input_bytes_per_token(self) -> float | None:
        """Size of the input files on disk; None where that says nothing of the text."""
        if self.manifest is None or self.lengths.tokens == 0:
            return None
        return sum(file.bytes for file in self.manifest.inputs) / self.lengths.tokens


def inspect_shard(
    prefix: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    samples: int = 0,
    sampled_tokens: int | None = SAMPLED_TOKENS,
    progress: Progress | None = None,
) -> Inspection:
    """``sampled_tokens``: read about so many of the tokens, at least; None reads all of them."""
    if samples < 0 or (samples and tokenizer is None):
        raise ConfigError(f"samples={samples} must be at least 0 and needs a tokenizer to decode.")
    shard = IndexedShard(prefix)
    shard.check_index()
    manifest = read_shard_manifest(prefix)
    if manifest is not None:
        identity_of(shard, manifest=manifest)  # refuses files that the manifest does not fit
    if tokenizer is not None:
        require_own(prefix, tokenizer=tokenizer)
    known = manifest or tokenizer
    counter = _TokenCounter(
        vocab_size=known.vocab_size if known else None, eos_id=known.eos_id if known else None
    )
    counter.read(shard, sampled_tokens=sampled_tokens, progress=progress)
    return Inspection(
        prefix=str(prefix),
        dtype=shard.dtype.name,
        bin_bytes=_bytes(prefix, kind="bin"),
        idx_bytes=_bytes(prefix, kind="idx"),
        sequences=shard.sequence_lengths.size,
        lengths=_lengths(shard),
        vocabulary=counter.vocabulary(tokenizer),
        ends=counter.ends(),
        learned=_learned(prefix, manifest=manifest),
        samples=tuple(_samples(shard, tokenizer=tokenizer, count=samples)) if tokenizer else (),
        manifest=manifest,
    )


def to_json(found: Inspection) -> str:
    content = asdict(found) | {"input_bytes_per_token": found.input_bytes_per_token}
    return json.dumps(content, indent=2)


def _learned(prefix: Path | str, *, manifest: Manifest | None) -> int | None:
    mask_T = open_mask(prefix, manifest=manifest)
    return None if mask_T is None else num_learned(mask_T)


def _bytes(prefix: Path | str, *, kind: str) -> int:
    return Path(f"{prefix}.{kind}").stat().st_size


def _lengths(shard: IndexedShard) -> LengthStatistics:
    counter = LengthCounter()
    for first in range(0, shard.num_documents, SPAN):
        counter.add(np.diff(shard.starts(first, stop=min(first + SPAN, shard.num_documents))))
    return counter.statistics()


class _TokenCounter:
    """Counts ids and ends of documents, span by span."""

    def __init__(self, *, vocab_size: int | None, eos_id: int | None) -> None:
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        self._counts = np.zeros(min(vocab_size or IDS_MAX, IDS_MAX), dtype=np.int64)
        self._outside = self._tokens = 0
        self._outside_range: tuple[int, int] | None = None
        self._documents = self._with_eos = 0

    def read(
        self, shard: IndexedShard, *, sampled_tokens: int | None, progress: Progress | None
    ) -> None:
        spans = spans_to_read(shard.num_tokens, sampled_tokens=sampled_tokens)
        total = sum(stop - start for start, stop in spans)
        # Read, not mapped: pages of a mapped file would count as this process's memory.
        with Path(f"{shard.prefix}.bin").open("rb", buffering=0) as stream:
            for start, stop in spans:
                stream.seek(start * shard.dtype.itemsize)
                ids = np.fromfile(stream, dtype=shard.dtype, count=stop - start)
                self._count(ids)
                self._count_ends(ids[document_ends(shard, start=start, stop=stop) - start - 1])
                if progress:
                    progress(self._tokens, total)

    def _count(self, ids: Ids) -> None:
        self._tokens += ids.size
        is_inside = (ids >= 0) & (ids < self._counts.size)
        self._counts += np.bincount(ids[is_inside], minlength=self._counts.size)
        outside = ids[~is_inside]
        if outside.size:
            self._outside += outside.size
            found = (int(outside.min()), int(outside.max()), *(self._outside_range or ()))
            self._outside_range = (min(found), max(found))

    def _count_ends(self, last_ids: Ids) -> None:
        self._documents += last_ids.size
        self._with_eos += int(np.count_nonzero(last_ids == self._eos_id))

    def vocabulary(self, tokenizer: Tokenizer | None) -> VocabularyUse:
        used = np.flatnonzero(self._counts)
        frequent = used[np.argsort(-self._counts[used], kind="stable")]
        up_to = np.cumsum(self._counts[frequent])
        enough = 100 * up_to >= 99 * up_to[-1:]
        return VocabularyUse(
            vocab_size=self._vocab_size,
            tokens_counted=self._tokens,
            ids_used=used.size,
            ids_for_99_percent=int(np.argmax(enough)) + 1 if used.size else 0,
            largest_id=int(used[-1]) if used.size else None,
            outside=self._outside,
            outside_range=self._outside_range,
            top=tuple(
                IdCount(
                    id=int(number),
                    count=int(self._counts[number]),
                    text=tokenizer.decode([number]) if tokenizer else None,
                )
                for number in frequent[:TOP]
            ),
        )

    def ends(self) -> DocumentEnds | None:
        if self._eos_id is None:
            return None
        return DocumentEnds(eos_id=self._eos_id, documents=self._documents, with_eos=self._with_eos)


def spans_to_read(num_tokens: int, *, sampled_tokens: int | None) -> list[tuple[int, int]]:
    """All of the tokens, or spans at equal distances that begin and end where the stream does."""
    if sampled_tokens is None or num_tokens <= max(sampled_tokens, SPAN):
        starts = range(0, num_tokens, SPAN)
        return [(start, min(start + SPAN, num_tokens)) for start in starts]
    count = max(sampled_tokens // SPAN, 1)
    last = num_tokens - SPAN
    return [
        (last * n // max(count - 1, 1), last * n // max(count - 1, 1) + SPAN) for n in range(count)
    ]


def document_ends(shard: IndexedShard, *, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Ends of documents that are not empty, of all in ``start+1 .. stop``."""

    def end_of(document: int) -> int:
        return int(shard.starts(document, stop=document)[0])

    bounds = range(shard.num_documents + 1)
    first = bisect_right(bounds, start, key=end_of)
    after = bisect_right(bounds, stop, key=end_of)
    if first == after:
        return np.zeros(0, dtype=np.int64)
    ends = shard.starts(first, stop=after - 1)
    return ends[np.diff(ends, prepend=start) > 0]


def _samples(shard: IndexedShard, *, tokenizer: Tokenizer, count: int) -> Iterator[ShownDocument]:
    """Documents at equal distances."""
    count = min(count, shard.num_documents)
    for n in range(count):
        number = (2 * n + 1) * shard.num_documents // (2 * count)
        ids = shard.document(number)
        whole = ids.size <= SHOWN_TOKENS + ENDING_TOKENS
        yield ShownDocument(
            document=number,
            tokens=ids.size,
            text=tokenizer.decode(ids if whole else ids[:SHOWN_TOKENS]),
            end=None if whole else tokenizer.decode(ids[-ENDING_TOKENS:]),
        )
