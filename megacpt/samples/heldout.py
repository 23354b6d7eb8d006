# SPDX-License-Identifier: Apache-2.0
"""A held-out set: the start of a token shard as consecutive samples, each target once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.samples.batch import Batch, Row, make_batch
from megacpt.samples.tape import require_two_tokens
from megacpt.shards.reader import IndexedShard


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutSet:
    """Sample k has inputs k*S .. k*S+S-1 and targets one further; the last one may be shorter."""

    shard: IndexedShard
    sequence_length: int
    num_tokens: int
    """Predicted targets."""
    document_mask: bool
    """Each document is predicted from itself alone, as in a run with ``data.document_mask``."""

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
        targets = shard.num_tokens - 1
        return cls(
            shard=shard,
            sequence_length=sequence_length,
            num_tokens=min(targets, max_tokens) if max_tokens > 0 else targets,
            document_mask=document_mask,
        )

    @property
    def num_samples(self) -> int:
        return -(-self.num_tokens // self.sequence_length)

    def load(self, positions: Sequence[int]) -> Batch:
        """Samples by number, 0 .. num_samples-1; ``source_ids_B`` is all zero."""
        starts = [k * self.sequence_length for k in positions]
        stops = [min(start + self.sequence_length, self.num_tokens) + 1 for start in starts]
        return make_batch(
            [Row(self.shard, 0, [i], [j]) for i, j in zip(starts, stops, strict=True)],
            sequence_length=self.sequence_length,
            document_mask=self.document_mask,
        )
