# SPDX-License-Identifier: Apache-2.0
"""The order of a run as arithmetic: (shards, blend, seed, step, position) -> sample.

    step      -> how many samples each source has in this batch, and had before   (blend.py)
    position  -> slot of the batch, by a bijection keyed (seed, step)
    slot      -> source, and the number n of the sample among all of that source
    n         -> epoch n // W and place n % W among the W windows of the source's token stream
    place     -> window, by a bijection keyed (seed, source, epoch)

Nothing is drawn, stored or built: any process computes any sample of any step by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from megacpt import _C
from megacpt.config.sections import DataConfig
from megacpt.data.batch import Batch, Row, make_batch
from megacpt.data.blend import BlendCursor, source_shares
from megacpt.data.indexed import IndexedShard
from megacpt.data.manifest import require_one_tokenizer, shard_identity
from megacpt.data.windows import Windows

ORDER_VERSION = 1
"""Part of the fingerprint: a run must not go on under another arithmetic."""


@dataclass(slots=True, kw_only=True)
class TrainingData:
    """The samples of a run. ``load`` is a pure function of its arguments."""

    config: DataConfig
    seed: int
    sources: Mapping[str, Windows]
    fingerprint: str
    """Changes with anything that changes a sample: shards, blend, lengths, batch size, seed."""
    cursor: BlendCursor

    @classmethod
    def open(
        cls,
        config: DataConfig,
        *,
        seed: int,
        shards: Mapping[str, Path | str],
        vocab_size: int | None = None,
    ) -> TrainingData:
        """``shards`` maps each name in ``config.sources`` to its token shard's prefix.

        With ``vocab_size``, a sample that holds an id beyond it raises DataError when it is read.
        """
        shares = source_shares(config)
        require_one_tokenizer([shards[name] for name in shares])
        sources = {
            name: Windows.of(
                IndexedShard(shards[name], vocab_size=vocab_size),
                source_id=number,
                sequence_length=config.sequence_length,
            )
            for number, name in enumerate(shares)
        }
        contents = [shard_identity(windows.shard) for windows in sources.values()]
        lengths = (config.sequence_length, config.global_batch_size)
        blend = [(name, str(share)) for name, share in shares.items()]
        return cls(
            config=config,
            seed=seed,
            sources=sources,
            fingerprint=_digest(ORDER_VERSION, seed, lengths, blend, contents).hexdigest(),
            cursor=BlendCursor(shares, global_batch_size=config.global_batch_size),
        )

    @property
    def source_names(self) -> tuple[str, ...]:
        """In the order of ``source_ids_B``."""
        return tuple(self.sources)

    @property
    def source_tokens(self) -> dict[str, int]:
        return {name: windows.shard.num_tokens for name, windows in self.sources.items()}

    def batch_size(self, step: int) -> int:
        """Samples of global batch ``step`` (the first is 0)."""
        return self.config.global_batch_size

    def sequence_length(self, step: int) -> int:
        """Tokens of each sample of global batch ``step``."""
        return self.config.sequence_length

    def consumed_samples(self, steps: int) -> dict[str, int]:
        """Samples of each source in the first ``steps`` global batches."""
        return dict(zip(self.sources, self.cursor.at(steps).before, strict=True))

    def epochs(self, steps: int) -> dict[str, float]:
        """How often the first ``steps`` global batches go through each source."""
        consumed = self.consumed_samples(steps)
        return {name: consumed[name] / len(windows) for name, windows in self.sources.items()}

    def load(self, step: int, *, positions: Sequence[int]) -> Batch:
        """Samples of global batch ``step`` (the first is 0) at ``positions`` of its B."""
        return make_batch(
            self.rows(step, positions=positions),
            sequence_length=self.config.sequence_length,
            document_mask=self.config.document_mask,
        )

    def rows(self, step: int, *, positions: Sequence[int]) -> list[Row]:
        """What ``load`` reads, without reading it."""
        counts = self.cursor.at(step)
        ends = list(accumulate(counts.counts))
        slots = _C.permute(
            np.asarray(positions, dtype=np.int64),
            size=self.config.global_batch_size,
            key=_key("batch", self.seed, int(step)),
        )
        owners = np.searchsorted(ends, slots, side="right")
        names = self.source_names
        return [
            self._window(
                names[owner],
                number=counts.before[owner] + int(slot) - (ends[owner] - counts.counts[owner]),
            )
            for slot, owner in zip(slots, owners, strict=True)
        ]

    def _window(self, name: str, *, number: int) -> Row:
        """Sample ``number`` of a source, counted over the whole run."""
        windows = self.sources[name]
        epoch, place = divmod(number, len(windows))
        key = _key("epoch", self.seed, name, epoch)
        shuffled = _C.permute(np.array([place], dtype=np.int64), size=len(windows), key=key)
        return windows[int(shuffled[0])]


def _key(*parts: object) -> int:
    """64 bits that depend on every part."""
    return int.from_bytes(_digest(*parts).digest()[:8], "little")


def _digest(*parts: object) -> hashlib._Hash:
    return hashlib.sha256(repr(parts).encode("utf-8"))
