# SPDX-License-Identifier: Apache-2.0
"""A token stream cut into samples so that each of its tokens but the first is a target once."""

from __future__ import annotations

from dataclasses import dataclass

from megacpt.errors import DataError
from megacpt.samples.batch import Row
from megacpt.shards.reader import IndexedShard


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Window k has inputs k*S .. k*S+S-1 and targets one further; the last one may be shorter."""

    shard: IndexedShard
    source_id: int
    sequence_length: int
    num_targets: int

    @classmethod
    def of(
        cls, shard: IndexedShard, *, source_id: int, sequence_length: int, max_targets: int = 0
    ) -> Windows:
        """Over the whole stream, or its first ``max_targets`` targets where that is above 0."""
        if shard.num_tokens < 2:
            raise DataError(
                f"{shard.prefix}.bin has {shard.num_tokens} tokens, but a sample needs at least 2; "
                "tokenize more text."
            )
        targets = shard.num_tokens - 1
        return cls(
            shard=shard,
            source_id=source_id,
            sequence_length=sequence_length,
            num_targets=min(targets, max_targets) if max_targets > 0 else targets,
        )

    def __len__(self) -> int:
        return -(-self.num_targets // self.sequence_length)

    def __getitem__(self, k: int) -> Row:
        start = k * self.sequence_length
        stop = min(start + self.sequence_length, self.num_targets)
        return Row(
            shard=self.shard,
            source_id=self.source_id,
            starts=[start],
            stops=[stop + 1],
        )
