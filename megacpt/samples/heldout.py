# SPDX-License-Identifier: Apache-2.0
"""A held-out set: the start of a token shard as consecutive samples, each target once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.samples.batch import Batch, make_batch
from megacpt.samples.windows import Windows
from megacpt.shards.reader import IndexedShard


@dataclass(frozen=True, slots=True)
class HeldoutSet:
    windows: Windows
    document_mask: bool = False
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
        windows = Windows.of(
            shard, source_id=0, sequence_length=sequence_length, max_targets=max_tokens
        )
        return cls(windows, document_mask=document_mask)

    @property
    def num_samples(self) -> int:
        return len(self.windows)

    @property
    def num_tokens(self) -> int:
        """Predicted targets."""
        return self.windows.num_targets

    def load(self, positions: Sequence[int]) -> Batch:
        """Samples by number, 0 .. num_samples-1; ``source_ids_B`` is all zero."""
        return make_batch(
            [self.windows[k] for k in positions],
            sequence_length=self.windows.sequence_length,
            document_mask=self.document_mask,
        )
