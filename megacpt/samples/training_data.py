# SPDX-License-Identifier: Apache-2.0
"""The samples of a run: any process reads any sample of any step by itself.

``data.order`` says which comes when: by arithmetic (keyed_order.py), or as megatron-core would
(megatron_order.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from megacpt.config.sections import DataConfig, Packing, SampleOrder
from megacpt.errors import ConfigError, DataError
from megacpt.plan.rules.data import length_violations
from megacpt.plan.segments import (
    Segment,
    at,
    chunk_length,
    epoch_cap_violations,
    resolve,
    samples_per_epoch,
)
from megacpt.samples.batch import Batch, Masks, Row, make_batch
from megacpt.samples.keyed_order import KeyedOrder, Source, epoch_key
from megacpt.samples.megatron_order import MegatronOrder, data_path_weights
from megacpt.samples.record import (
    DataRecord,
    DrawnSegment,
    OrderSettings,
    require_same_contents,
    require_same_settings,
)
from megacpt.samples.tape import Key, RowsOfSpans, Tiles, require_two_tokens
from megacpt.shards.loss_mask import LossMask, open_mask
from megacpt.shards.manifest import identity_of, read_shard_manifest, require_one_tokenizer
from megacpt.shards.packing import PackedShard
from megacpt.shards.reader import IndexedShard


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """``load`` is a pure function of its arguments; threads may share it."""

    config: DataConfig
    settings: OrderSettings
    shards: Mapping[str, IndexedShard]
    contents: Mapping[str, str]
    """Fingerprint of each source's tokens."""
    curations: Mapping[str, tuple[str, ...]]
    """Source -> fingerprints of the curations that its text is of, where its manifest has some."""
    segments: tuple[Segment, ...]
    """What was drawn, and what will be."""
    order: KeyedOrder | MegatronOrder
    masks: Masks = field(default_factory=dict)
    """Of sources that are not learned whole, by their numbers."""

    @classmethod
    def open(
        cls,
        config: DataConfig,
        *,
        seed: int,
        shards: Mapping[str, Path | str],
        vocab_size: int | None = None,
        steps: int | None = None,
        record: Mapping[str, Any] | None = None,
        replies_only: bool = False,
    ) -> TrainingData:
        """``shards`` maps each name in ``config.sources`` to its token shard's prefix.

        With ``vocab_size``, a sample that holds an id beyond it raises DataError when it is read.
        With ``steps``, a run of that many is refused if it exceeds a source's ``max_epochs``.
        ``record`` is that of the checkpoint the run goes on from, as ``record(step)`` made it.
        ``replies_only``: of conversations, only what their mask marks is learned.
        """
        past = DataRecord.from_json(record) if record is not None else None
        segments = segments_of(config, past=past)
        settings = _settings(config, seed=seed, past=past)
        scattered = config.order is SampleOrder.keyed
        opened = {
            name: IndexedShard(shards[name], vocab_size=vocab_size, scattered=scattered)
            for name in config.sources
        }
        contents = contents_of(opened, replies_only=replies_only)
        if past:
            require_same_settings(past, settings=settings)
            require_same_contents(past, contents=contents)
        data = cls(
            config=config,
            settings=settings,
            shards=opened,
            contents=contents,
            curations=curations_of(opened),
            segments=segments,
            order=_megatron(
                config, shards=opened, segments=segments, seed=seed, steps=steps, past=past
            )
            if config.order is SampleOrder.megatron
            else _keyed(opened, segments=segments, settings=settings, past=past),
            masks=masks_of(opened, replies_only=replies_only),
        )
        if steps is not None:
            data._require_epochs(steps)
        return data

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names in the order of ``source_ids_B``."""
        return tuple(self.shards)

    @property
    def source_tokens(self) -> dict[str, int]:
        return {name: shard.num_tokens for name, shard in self.shards.items()}

    def batch_size(self, step: int) -> int:
        """Samples of global batch ``step`` (the first is 0)."""
        return at(self.segments, step=step).global_batch_size

    def sequence_length(self, step: int) -> int:
        """Tokens of each sample of global batch ``step``."""
        return at(self.segments, step=step).sequence_length

    def load(self, step: int, *, positions: Sequence[int]) -> Batch:
        """Samples of global batch ``step`` at ``positions`` of its B."""
        return make_batch(
            self.order.rows(step, positions=positions),
            sequence_length=self.sequence_length(step),
            document_mask=self.config.document_mask,
            masks=self.masks,
        )

    def rows(self, step: int, *, positions: Sequence[int]) -> list[Row]:
        """What ``load`` reads, without reading it."""
        return self.order.rows(step, positions=positions)

    def consumed_samples(self, steps: int) -> dict[str, int]:
        """Samples of each source in the first ``steps`` global batches."""
        return self.order.consumed_samples(steps)

    def epochs(self, steps: int) -> dict[str, float]:
        """How often the first ``steps`` global batches go through each source."""
        if isinstance(self.order, KeyedOrder):
            return self.order.epochs(steps)
        length = self.config.sequence_length
        consumed = self.order.consumed_samples(steps)
        return {name: n * length / self.shards[name].num_tokens for name, n in consumed.items()}

    def record(self, step: int) -> dict[str, Any]:
        """For the checkpoint of ``step`` steps: what ``open`` needs to go on from there."""
        return DataRecord(
            step=step,
            settings=self.settings,
            contents={n: self.contents[n] for n, s in self.consumed_samples(step).items() if s},
            segments=self._drawn_segments(step),
            curations=self.curations,
        ).to_json()

    def _drawn_segments(self, step: int) -> tuple[DrawnSegment, ...]:
        if isinstance(self.order, KeyedOrder):
            return self.order.drawn_segments(step)
        drawn = tuple(self.order.consumed_samples(step).values())
        return (DrawnSegment(segment=self.segments[0], drawn=drawn),)

    def _require_epochs(self, steps: int) -> None:
        broken = epoch_cap_violations(
            self.config,
            segments=self.segments,
            steps=steps,
            epoch_samples=lambda name, length: self._samples_per_epoch(
                name, sequence_length=length
            ),
        )
        if broken:
            raise ConfigError(broken)

    def _samples_per_epoch(self, name: str, *, sequence_length: int) -> Fraction | int:
        if isinstance(self.order, KeyedOrder):
            return self.order.samples_per_epoch(name, sequence_length=sequence_length)
        return Fraction(self.shards[name].num_tokens, sequence_length)


def segments_of(config: DataConfig, *, past: DataRecord | None) -> tuple[Segment, ...]:
    """What a run has drawn and will draw; ConfigError where it cannot go on so from ``past``."""
    if past is None:
        return resolve(config)
    if broken := length_violations(config, chunk=_chunk_length(config, past=past)):
        raise ConfigError(broken)
    return resolve(config, past=past.past, step=past.step)


def epoch_samples(config: DataConfig, *, name: str, num_tokens: int, sequence_length: int) -> int:
    """Samples of a pass through a source of so many tokens, before its order is worked out."""
    prefix = config.sources[name].prefix
    if config.order is SampleOrder.megatron:
        return max(num_tokens // sequence_length, 1)
    if config.packing is Packing.best_fit and prefix is not None:
        return int(PackedShard.open(prefix, sequence_length=sequence_length).num_rows)
    return samples_per_epoch(
        num_tokens, sequence_length=sequence_length, chunk_length=chunk_length(config)
    )


def fresh_record(config: DataConfig, *, seed: int, step: int) -> DataRecord:
    """The record of a run that counts its steps from ``step`` on and has drawn nothing."""
    settings = _settings(config, seed=seed, past=None)
    return DataRecord(step=step, settings=settings, contents={}, segments=())


def _chunk_length(config: DataConfig, *, past: DataRecord | None) -> int:
    """A run keeps the chunks it began with, though a new segment may have other lengths."""
    if past is not None and config.chunk_length is None:
        return past.settings.chunk_length
    return chunk_length(config)


def _settings(config: DataConfig, *, seed: int, past: DataRecord | None) -> OrderSettings:
    return OrderSettings(
        seed=seed,
        order=config.order.name,
        packing=config.packing.name,
        chunk_length=_chunk_length(config, past=past),
    )


def contents_of(
    shards: Mapping[str, IndexedShard], *, replies_only: bool = False
) -> dict[str, str]:
    """A fingerprint of the tokens of each source, and of which of them are learned."""
    manifests = require_one_tokenizer([shard.prefix for shard in shards.values()])
    found = {}
    for (name, shard), manifest in zip(shards.items(), manifests, strict=True):
        is_masked = replies_only and manifest is not None and manifest.is_chat
        identity = identity_of(shard, manifest=manifest) + " replies" * is_masked
        found[name] = hashlib.sha256(identity.encode("utf-8")).hexdigest()
    return found


def masks_of(
    shards: Mapping[str, IndexedShard], *, replies_only: bool = False
) -> dict[int, LossMask]:
    """Number of each source that is not learned whole -> its mask."""
    found = {}
    for number, shard in enumerate(shards.values()):
        manifest = read_shard_manifest(shard.prefix)
        if manifest is not None and manifest.is_chat and not replies_only:
            continue
        mask_T = open_mask(shard.prefix, manifest=manifest)
        if mask_T is not None:
            found[number] = mask_T
    return found


def curations_of(shards: Mapping[str, IndexedShard]) -> dict[str, tuple[str, ...]]:
    """``TrainingData.curations``."""
    manifests = {name: read_shard_manifest(shard.prefix) for name, shard in shards.items()}
    return {
        name: tuple(origin.fingerprint for origin in manifest.curated)
        for name, manifest in manifests.items()
        if manifest is not None and manifest.curated
    }


def _keyed(
    shards: Mapping[str, IndexedShard],
    *,
    segments: Sequence[Segment],
    settings: OrderSettings,
    past: DataRecord | None,
) -> KeyedOrder:
    sources = {}
    for number, (name, shard) in enumerate(shards.items()):
        key = epoch_key(settings.seed, name=name)
        cut = _cut(shard, settings=settings, key=key)
        sources[name] = Source(name=name, number=number, shard=shard, cut=cut, key=key)
    return KeyedOrder(
        sources, segments=segments, seed=settings.seed, known=past.known if past else ()
    )


def _cut(shard: IndexedShard, *, settings: OrderSettings, key: Key) -> Tiles | RowsOfSpans:
    require_two_tokens(shard)
    if settings.packing == Packing.best_fit.name:
        return PackedShard.open(shard.prefix, sequence_length=settings.chunk_length)
    return Tiles(shard.num_tokens, chunk_length=settings.chunk_length, key=key)


def _megatron(
    config: DataConfig,
    *,
    shards: Mapping[str, IndexedShard],
    segments: Sequence[Segment],
    seed: int,
    steps: int | None,
    past: DataRecord | None,
) -> MegatronOrder:
    if steps is None:
        raise ValueError("data.order=megatron needs the number of steps: its order depends on it")
    if past is not None and past.past[-1].global_batch_size != config.global_batch_size:
        raise DataError(
            f"data.global_batch_size is {config.global_batch_size}, but the run began with "
            f"{past.past[-1].global_batch_size}, which data.order=megatron cannot change; "
            "restore it."
        )
    return MegatronOrder.open(
        shards,
        weights=data_path_weights(config, shares=segments[0].shares),
        seed=seed,
        sequence_length=config.sequence_length,
        global_batch_size=config.global_batch_size,
        steps=steps,
    )
