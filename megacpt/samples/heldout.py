# SPDX-License-Identifier: Apache-2.0
"""A held-out set: the start of a token shard as samples, each target once.

Text is cut into consecutive samples. Conversations stay whole where they fit a sample, and only
their replies are measured; of text nothing that is not learned either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from megacpt.errors import DataError
from megacpt.samples.batch import Batch, Masks, Row, make_batch
from megacpt.samples.tape import require_two_tokens
from megacpt.shards.loss_mask import LossMask, open_mask
from megacpt.shards.manifest import read_shard_manifest
from megacpt.shards.reader import IndexedShard

TokenSpan: TypeAlias = tuple[int, int]
"""Tokens of the shard, first and one past the last: one more than it has targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutSet:
    """Of text, sample k has inputs k*S .. k*S+S-1 and targets one further; the last one may be
    shorter."""

    shard: IndexedShard
    sequence_length: int
    num_tokens: int
    """Predicted targets."""
    document_mask: bool
    """Each document is predicted from itself alone, as in a run with ``data.document_mask``."""
    rows: Sequence[Sequence[TokenSpan]] | None = None
    """Of conversations, what each sample holds; None: text."""
    masks: Masks = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        prefix: Path | str,
        *,
        sequence_length: int,
        max_tokens: int,
        vocab_size: int | None = None,
        document_mask: bool = False,
    ) -> HeldoutSet:
        """The first ``max_tokens`` targets of the shard; 0 takes all."""
        shard = IndexedShard(prefix, vocab_size=vocab_size)
        require_two_tokens(shard)
        manifest = read_shard_manifest(prefix)
        mask_T = open_mask(prefix, manifest=manifest)
        if mask_T is not None and manifest is not None and manifest.is_chat:
            rows, num_tokens = _rows_of(
                shard,
                mask_T=mask_T,
                sequence_length=sequence_length,
                max_tokens=max_tokens,
                shared=document_mask,
            )
        else:
            targets, rows = shard.num_tokens - 1, None
            num_tokens = min(targets, max_tokens) if max_tokens > 0 else targets
            if mask_T is not None and not mask_T[1 : num_tokens + 1].any():
                raise DataError(
                    f"held-out shard {prefix} has no token to measure: its mask says of all of the "
                    "first that none is learned; give another one."
                )
        return cls(
            shard=shard,
            sequence_length=sequence_length,
            num_tokens=num_tokens,
            document_mask=document_mask,
            rows=rows,
            masks={0: mask_T} if mask_T is not None else {},
        )

    @property
    def num_samples(self) -> int:
        return -(-self.num_tokens // self.sequence_length) if self.rows is None else len(self.rows)

    def load(self, positions: Sequence[int]) -> Batch:
        """Samples by number, 0 .. num_samples-1; ``source_ids_B`` is all zero."""
        return make_batch(
            [self._row(k) for k in positions],
            sequence_length=self.sequence_length,
            document_mask=self.document_mask,
            masks=self.masks,
        )

    def _row(self, k: int) -> Row:
        if self.rows is not None:
            starts, stops = zip(*self.rows[k], strict=True)
            return Row(self.shard, 0, list(starts), list(stops))
        start = k * self.sequence_length
        stop = min(start + self.sequence_length, self.num_tokens) + 1
        return Row(self.shard, 0, [start], [stop])


def _rows_of(
    shard: IndexedShard,
    *,
    mask_T: LossMask,
    sequence_length: int,
    max_tokens: int,
    shared: bool,
) -> tuple[list[list[TokenSpan]], int]:
    """Samples up to the one that reaches ``max_tokens`` learned targets, and how many these are.

    ``shared``: a sample holds as many conversations, in order, as fit; else one.
    """
    rows: list[list[TokenSpan]] = []
    free = counted = 0
    for start, stop in _pieces(shard, sequence_length=sequence_length):
        if not shared or stop - start - 1 > free:
            if 0 < max_tokens <= counted:
                break
            rows.append([])
            free = sequence_length
        rows[-1].append((start, stop))
        free -= stop - start - 1
        counted += int(mask_T[start + 1 : stop].sum())
    return rows, counted


def _pieces(shard: IndexedShard, *, sequence_length: int) -> Iterator[TokenSpan]:
    """Each conversation; one that is longer than a sample in pieces, each target once."""
    for start, stop in pairwise(shard.starts(0, stop=shard.num_documents).tolist()):
        for first in range(start, stop - 1, sequence_length):
            yield first, min(first + sequence_length + 1, stop)
