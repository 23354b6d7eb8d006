# SPDX-License-Identifier: Apache-2.0
"""``order: megatron``: the samples of megatron-core's GPTDataset and BlendedDataset, in order.

Megatron-LM reads the same tokens in the same order with

    --data-path W1 PREFIX1 W2 PREFIX2 ... --split 100,0,0 --dataloader-type single
    --seed SEED --seq-length S --train-iters STEPS --global-batch-size B

or ``--train-data-path`` in place of ``--data-path`` and ``--split``. One source is named without a
weight. Sample ``step * B + position`` of megatron-core's training set is ours at that step and
position. The indices live in memory: 4 bytes a sequence and epoch, 12 a sample, 10 a sample of the
blend. They are built by every process for itself, and no file is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.config.sections import DataConfig
from megacpt.errors import ConfigError, DataError, Violation
from megacpt.samples.batch import Row
from megacpt.shards.reader import IndexedShard

SURPLUS = 0.005
"""megatron-core asks each source of a blend for this much more than its share."""
SEPARATE_BELOW = 0.80
"""megatron-core shuffles the last epoch apart when less than this part of it is asked for."""
MOST_ENTRIES = 2**31 - 1
"""Largest index; megatron-core goes on with 64 bits, which no memory of a rank would hold."""
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """How often megatron-core lays a source end to end to cut enough samples from it."""

    num_epochs: int
    separate_last: bool

    @classmethod
    def of(cls, *, num_tokens: int, num_samples: int, sequence_length: int) -> EpochPlan:
        """Samples share their first token with the one before, hence one token more or less."""
        num_epochs = max(1, -(-(num_samples * sequence_length + 1) // num_tokens))
        before_last = ((num_epochs - 1) * num_tokens - 1) // sequence_length
        per_epoch = (num_tokens - 1) // sequence_length
        asked_of_last = num_samples - before_last
        separate = num_epochs > 1 and asked_of_last < int(SEPARATE_BELOW * per_epoch)
        return cls(num_epochs=num_epochs, separate_last=separate)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOrder:
    """GPTDataset: the samples of one source."""

    shard: IndexedShard
    source_id: int
    document_index: npt.NDArray[np.int32]
    """The sequences of all epochs, shuffled."""
    sample_index: npt.NDArray[np.int32]
    """Start of each sample: a place in ``document_index`` and a token of the sequence there."""
    shuffle_index: npt.NDArray[np.uint32]

    @classmethod
    def build(
        cls,
        shard: IndexedShard,
        *,
        source_id: int,
        num_samples: int,
        sequence_length: int,
        seed: int,
    ) -> SourceOrder:
        if shard.num_tokens < 1:
            raise DataError(f"{shard.prefix}.bin holds no tokens; tokenize more text.")
        shard.check_index()
        plan = EpochPlan.of(
            num_tokens=shard.num_tokens, num_samples=num_samples, sequence_length=sequence_length
        )
        lengths, tokens = shard.sequence_lengths, plan.num_epochs * shard.num_tokens
        _require_room(f"{shard.prefix} laid end to end", entries=plan.num_epochs * lengths.size)
        _require_room(f"the samples of {shard.prefix}", entries=(tokens - 1) // sequence_length)
        document_index, sample_index, shuffle_index = _C.megatron_indices(
            lengths,
            seed=seed,
            sequence_length=sequence_length,
            num_epochs=plan.num_epochs,
            separate_last_epoch=plan.separate_last,
        )
        return cls(
            shard=shard,
            source_id=source_id,
            document_index=document_index,
            sample_index=sample_index,
            shuffle_index=shuffle_index,
        )

    def __len__(self) -> int:
        return self.shuffle_index.size

    def row(self, number: int) -> Row:
        sample = int(self.shuffle_index[number])
        (first, begin), (last, end) = self.sample_index[sample : sample + 2].tolist()
        sequences = self.document_index[first : last + 1]
        starts = self.shard.sequence_offsets[sequences] // self.shard.dtype.itemsize
        stops = starts + self.shard.sequence_lengths[sequences]
        stops[-1] = starts[-1] + end + 1
        starts[0] += begin
        filled = stops > starts
        return Row(
            shard=self.shard,
            source_id=self.source_id,
            starts=starts[filled],
            stops=stops[filled],
            joined=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronOrder:
    """The samples of a run."""

    sources: Mapping[str, SourceOrder]
    global_batch_size: int
    num_samples: int
    blend: tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]] | None
    """BlendedDataset: source and number in it of each sample; None with one source."""

    @classmethod
    def open(
        cls,
        shards: Mapping[str, IndexedShard],
        *,
        weights: Mapping[str, float],
        seed: int,
        sequence_length: int,
        global_batch_size: int,
        steps: int,
    ) -> MegatronOrder:
        """``weights`` as they would stand in ``--data-path``; their sum does not matter."""
        _require_seed(seed)
        num_samples = steps * global_batch_size
        asked, blend = [num_samples], None
        if len(shards) > 1:
            shares = _normalised([weights[name] for name in shards])
            targets = [math.ceil(num_samples * share) for share in shares]
            asked = [math.ceil(target * (1 + SURPLUS)) for target in targets]
            _require_room("the blend", entries=sum(targets))
            # Twice, as there: dividing by a sum that is 1 but for its last bit changes last bits.
            blend = _C.megatron_blend(_normalised(shares), num_samples=sum(targets))
        sources = {
            name: SourceOrder.build(
                shard,
                source_id=number,
                num_samples=asked[number],
                sequence_length=sequence_length,
                seed=seed,
            )
            for number, (name, shard) in enumerate(shards.items())
        }
        if blend is not None:
            _require_enough(sources, owners=blend[0])
        return cls(
            sources=sources,
            global_batch_size=global_batch_size,
            num_samples=num_samples,
            blend=blend,
        )

    def rows(self, step: int, *, positions: Sequence[int]) -> list[Row]:
        """Samples of global batch ``step`` (the first is 0) at ``positions`` of its B."""
        orders, first = tuple(self.sources.values()), step * self.global_batch_size
        return [self._row(orders, number=first + int(position)) for position in positions]

    def consumed_samples(self, steps: int) -> dict[str, int]:
        """Samples of each source in the first ``steps`` global batches."""
        num_samples = steps * self.global_batch_size
        if not 0 <= num_samples <= self.num_samples:
            raise IndexError(f"{num_samples} samples, but the order has {self.num_samples}")
        if self.blend is None:
            return dict.fromkeys(self.sources, num_samples)
        source, sample = self.blend
        counts = _drawn(
            source, sample=sample, num_samples=num_samples, num_sources=len(self.sources)
        )
        return dict(zip(self.sources, counts.tolist(), strict=True))

    def _row(self, orders: Sequence[SourceOrder], *, number: int) -> Row:
        if not 0 <= number < self.num_samples:
            raise IndexError(f"sample {number} of {self.num_samples}")
        if self.blend is None:
            return orders[0].row(number)
        source, sample = self.blend
        return orders[int(source[number])].row(int(sample[number]))


def data_path_weights(config: DataConfig, *, shares: Mapping[str, Fraction]) -> dict[str, float]:
    """The weights that ``--data-path`` needs for the same blend: as configured, to the last bit,
    or the shares where one of them is replay's."""
    if config.replay is None:
        return {name: float(config.sources[name].weight) for name in shares}
    return {name: float(share) for name, share in shares.items()}


def _normalised(weights: Sequence[float]) -> list[float]:
    values = np.array(weights, dtype=np.float64)
    shares: list[float] = (values / np.sum(values)).tolist()
    return shares


def _drawn(
    source: npt.NDArray[np.int16],
    *,
    sample: npt.NDArray[np.int64],
    num_samples: int,
    num_sources: int,
) -> npt.NDArray[np.int64]:
    """How many of the first samples each source gave: the number of its last one, plus one.

    The last one is near the end, so little of the index is read, whatever its size.
    """
    counts = np.zeros(num_sources, dtype=np.int64)
    reach = 64 * num_sources
    while True:
        begin = max(0, num_samples - reach)
        found, last = np.unique(source[begin:num_samples][::-1], return_index=True)
        if begin == 0 or found.size == num_sources:
            counts[found] = sample[num_samples - 1 - last] + 1
            return counts
        reach *= 16


def _require_seed(seed: int) -> None:
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(
            [
                Violation(
                    path="seed",
                    value=seed,
                    rule=f"must be in 0..{LARGEST_SEED} with data.order=megatron",
                    remedy="choose another seed, or data.order=keyed",
                )
            ]
        )


def _require_room(what: str, *, entries: int) -> None:
    if entries > MOST_ENTRIES:
        raise DataError(
            f"data.order=megatron keeps an index in memory; {what} would take {entries:,} entries, "
            f"the most is {MOST_ENTRIES:,}; use data.order=keyed, which keeps none."
        )


def _require_enough(sources: Mapping[str, SourceOrder], *, owners: npt.NDArray[np.int16]) -> None:
    """megatron-core ends here, too: its surplus is not enough for every blend."""
    drawn = np.bincount(owners, minlength=len(sources))
    for (name, order), count in zip(sources.items(), drawn.tolist(), strict=True):
        if count > len(order):
            raise DataError(
                f"data.sources.{name}: the blend draws {count:,} samples, but megatron-core would "
                f"have cut {len(order):,}, {SURPLUS:.1%} above its share, and ended; use other "
                "weights or more steps, or data.order=keyed."
            )
