# SPDX-License-Identifier: Apache-2.0
"""What sources, weights, replay and stages must keep for a blend to be worked out at all."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.limits import beyond_limits
from megacpt.config.sections import (
    DataConfig,
    HeldoutConfig,
    Packing,
    SampleOrder,
    SourceConfig,
    StageConfig,
)
from megacpt.corpus.required import DONE, unknown
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule
from megacpt.text import listed


def blend_violations(data: DataConfig) -> list[Violation]:
    """All that keeps megacpt.plan.segments from working, which asks nothing else."""
    return [*beyond_limits(data, prefix="data."), *_blend(data)]


def _blend(data: DataConfig) -> Iterator[Violation]:
    yield from _weights(data)
    yield from _replay(data)
    for name, stage in data.stages.items():
        path = f"data.stages.{name}"
        yield from _stage_begin(path, stage=stage)
        yield from _stage_sources(data, path=path, stage=stage)
        if stage.replay_share is not None and data.replay is None:
            yield Violation(
                path=f"{path}.replay_share",
                value=stage.replay_share,
                rule="needs a replay source",
                remedy="set data.replay.source and data.replay.share",
            )
    yield from _lengths(data)
    yield from _orders(data)


def _is_replay(data: DataConfig, *, name: str) -> bool:
    return data.replay is not None and name == data.replay.source


def _weights(data: DataConfig) -> Iterator[Violation]:
    """Weight 0 keeps a source for the stages that name it."""
    later = {name for stage in data.stages.values() for name in stage.sources}
    own = {name: s.weight for name, s in data.sources.items() if not _is_replay(data, name=name)}
    for name, weight in own.items():
        path = f"data.sources.{name}"
        if not (weight >= 0 and math.isfinite(weight)) or (weight == 0 and name not in later):
            other = f"leave the source out with ~{path}"
            if weight == 0 and data.stages:
                other = f"name {name} in a stage's sources"
            yield Violation(
                path=f"{path}.weight",
                value=weight,
                rule="is not above 0",
                remedy=f"use a positive weight, or {other}",
            )
    if own and not any(own.values()) and later.issuperset(own):
        yield Violation(
            path="data.sources",
            value=", ".join(own),
            rule="has no source with a weight above 0 to start with",
            remedy="give one a weight; stages say what changes later",
        )


def _replay(data: DataConfig) -> Iterator[Violation]:
    replay = data.replay
    if replay is None:
        return
    if replay.source not in data.sources:
        names = " or ".join(f"data.replay.source={n}" for n in data.sources)
        yield Violation(
            path="data.replay.source",
            value=replay.source,
            rule=f"is not among data.sources ({', '.join(data.sources) or 'none'})",
            remedy=f"set data.sources.{replay.source}.prefix=SHARD"
            + (f" or {names}" * bool(names)),
        )
    elif len(data.sources) == 1:
        yield Violation(
            path="data.replay.source",
            value=replay.source,
            rule="is the only source",
            remedy="add a domain source: data.sources.NAME.prefix=SHARD",
        )


def _stage_begin(path: str, *, stage: StageConfig) -> Iterator[Violation]:
    begins = {"from_step": stage.from_step, "from_tokens": stage.from_tokens}
    given = {key: value for key, value in begins.items() if value is not None}
    if len(given) != 1:
        yield Violation(
            path=path,
            value=given or "{...}",
            rule="says twice when it begins" if given else "does not say when it begins",
            remedy=f"set {path}.from_step=N or {path}.from_tokens=N, one of them",
        )


def _stage_sources(data: DataConfig, *, path: str, stage: StageConfig) -> Iterator[Violation]:
    for name in stage.sources:
        place = f"{path}.sources.{name}"
        if name not in data.sources:
            yield Violation(
                path=place,
                value="{...}",
                rule=f"is not among data.sources ({', '.join(data.sources) or 'none'})",
                remedy=f"set data.sources.{name}.prefix=SHARD, or leave it out of the stage",
            )
        elif _is_replay(data, name=name):
            yield Violation(
                path=place,
                value="{...}",
                rule="is the replay source",
                remedy="leave it out: replay is in every stage; "
                f"{path}.replay_share sets its share",
            )


def sequence_lengths(data: DataConfig) -> dict[str, int]:
    """Setting -> length, the start's and those of the stages."""
    stages = {
        f"data.stages.{name}.sequence_length": stage.sequence_length
        for name, stage in data.stages.items()
        if stage.sequence_length is not None
    }
    return {"data.sequence_length": data.sequence_length} | stages


def _lengths(data: DataConfig) -> Iterator[Violation]:
    chunk = longest(data) if data.chunk_length is None else data.chunk_length
    if data.packing is Packing.concat and data.order is SampleOrder.keyed and chunk >= 1:
        yield from length_violations(data, chunk=chunk)


def longest(data: DataConfig) -> int:
    """Tokens of a sample, in the stage where it is longest."""
    return max(sequence_lengths(data).values())


def length_violations(data: DataConfig, *, chunk: int) -> list[Violation]:
    """Lengths that do not divide the chunks of a run."""
    lengths = {path: length for path, length in sequence_lengths(data).items() if length >= 1}
    return [
        Violation(
            path=path,
            value=length,
            rule=f"does not divide the {chunk} tokens that are shuffled as one piece",
            remedy=f"use a divisor of {chunk}, or start a run with "
            f"data.chunk_length={math.lcm(*lengths.values())}",
        )
        for path, length in lengths.items()
        if chunk % length != 0
    ]


def _orders(data: DataConfig) -> Iterator[Violation]:
    """What the packings and orders cannot do."""
    if data.order is SampleOrder.megatron:
        for path, is_set, value in (
            ("data.stages", bool(data.stages), ", ".join(data.stages)),
            ("data.packing", data.packing is not Packing.concat, data.packing.name),
            ("data.chunk_length", data.chunk_length is not None, data.chunk_length),
        ):
            if is_set:
                yield Violation(
                    path=path,
                    value=value,
                    rule="is not possible with data.order=megatron",
                    remedy="use data.order=keyed, or leave it out",
                )
    elif data.packing is Packing.best_fit:
        for path, length in sequence_lengths(data).items():
            if length != data.sequence_length:
                yield Violation(
                    path=path,
                    value=length,
                    rule=f"differs from data.sequence_length={data.sequence_length}, but best_fit "
                    "packs rows of one length",
                    remedy="use data.packing=concat, or one length in all stages",
                )
        if data.chunk_length is not None:
            yield Violation(
                path="data.chunk_length",
                value=data.chunk_length,
                rule="has no meaning with data.packing=best_fit",
                remedy="leave it out",
            )


def _sources(facts: Facts) -> Iterator[Violation]:
    data = facts.config.data
    for name, source in data.sources.items():
        yield from text_is_named(f"data.sources.{name}", item=source)
    if data.sources:
        yield from _blend(data)
    else:
        yield Violation(
            path="data.sources",
            value="{}",
            rule="names no text to train on",
            remedy="set data.sources.NAME.prefix=SHARD, a shard written by megacpt tokenize",
        )


def text_is_named(path: str, *, item: SourceConfig | HeldoutConfig) -> Iterator[Violation]:
    """A shard or generated text, one of them."""
    if item.prefix and item.synthetic is not None:
        yield Violation(
            path=f"{path}.prefix",
            value=item.prefix,
            rule=f"is set beside {path}.synthetic",
            remedy=f"set {path}.synthetic=null to use the shard",
        )
    if not item.prefix and item.synthetic is None:
        yield Violation(
            path=f"{path}.prefix",
            value="null",
            rule="names no token shard",
            remedy=f"set {path}.prefix=SHARD, a shard written by megacpt tokenize",
        )


def _required(facts: Facts) -> Iterator[Violation]:
    data = facts.config.data
    asked = {f"data.sources.{name}.require": s.require for name, s in data.sources.items()}
    for path, text in {"data.require": data.require, **asked}.items():
        for word in unknown(text):
            yield Violation(
                path=path,
                value=word,
                rule="is nothing that curation does",
                remedy=f"use {listed(DONE)}, or decontaminated:SUITE",
            )


RULES: tuple[Rule, ...] = (_sources, _required)
