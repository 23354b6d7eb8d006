# SPDX-License-Identifier: Apache-2.0
"""What sources, weights, replay and stages must keep for a blend to be worked out at all."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import DataConfig, Packing, SampleOrder, StageConfig
from megacpt.errors import Violation


def blend_violations(data: DataConfig) -> list[Violation]:
    """All broken rules; megacpt.plan.segments works without asking again where there are none."""
    stages = [
        v for name, stage in data.stages.items() for v in _stage(data, name=name, stage=stage)
    ]
    return [*_weights(data), *_replay(data), *stages, *_lengths(data), *_orders(data)]


def _is_replay(data: DataConfig, *, name: str) -> bool:
    return data.replay is not None and name == data.replay.source


def _weights(data: DataConfig) -> Iterator[Violation]:
    """Weight 0 keeps a source for the stages that name it."""
    later = {name for stage in data.stages.values() for name in stage.sources}
    for name, source in data.sources.items():
        path = f"data.sources.{name}"
        if _is_replay(data, name=name):
            continue
        if not (source.weight >= 0 and math.isfinite(source.weight)) or (
            source.weight == 0 and name not in later
        ):
            remedy = f"use a positive weight, or leave the source out with ~{path}"
            if source.weight == 0 and data.stages:
                remedy = f"use a positive weight, or name {name} in a stage's sources"
            yield _broken(
                f"{path}.weight", value=source.weight, rule="is not above 0", remedy=remedy
            )
    own = {name: s.weight for name, s in data.sources.items() if not _is_replay(data, name=name)}
    if own and not any(own.values()) and later.issuperset(own):
        yield _broken(
            "data.sources",
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
        yield _broken(
            "data.replay.source",
            value=replay.source,
            rule=f"is not among data.sources ({', '.join(data.sources) or 'none'})",
            remedy=f"set data.sources.{replay.source}.prefix=SHARD"
            + (f" or {names}" * bool(names)),
        )
    elif len(data.sources) == 1:
        yield _broken(
            "data.replay.source",
            value=replay.source,
            rule="is the only source",
            remedy="add a domain source: data.sources.NAME.prefix=SHARD",
        )
    if not 0 < replay.share < 1:
        yield _broken(
            "data.replay.share",
            value=replay.share,
            rule="is outside (0, 1)",
            remedy="0.05 to 0.2 is usual; data.replay=null trains without replay",
        )


def _stage(data: DataConfig, *, name: str, stage: StageConfig) -> Iterator[Violation]:
    path = f"data.stages.{name}"
    begins = {"from_step": stage.from_step, "from_tokens": stage.from_tokens}
    given = {key: value for key, value in begins.items() if value is not None}
    if len(given) != 1:
        rule = "says twice when it begins" if given else "does not say when it begins"
        remedy = f"set {path}.from_step=N or {path}.from_tokens=N, one of them"
        yield _broken(path, value=given or "{...}", rule=rule, remedy=remedy)
    sizes = {"sequence_length": stage.sequence_length, "global_batch_size": stage.global_batch_size}
    for key, value in {**given, **sizes}.items():
        if value is not None and value < 1:
            remedy = "use 1 or more"
            if key in begins:
                remedy += "; what holds from the start is set in data itself"
            yield _broken(f"{path}.{key}", value=value, rule="is below 1", remedy=remedy)
    yield from _stage_sources(data, path=path, stage=stage)
    yield from _stage_replay(data, path=path, stage=stage)


def _stage_sources(data: DataConfig, *, path: str, stage: StageConfig) -> Iterator[Violation]:
    for name, source in stage.sources.items():
        place = f"{path}.sources.{name}"
        if name not in data.sources:
            known = ", ".join(data.sources) or "none"
            remedy = f"set data.sources.{name}.prefix=SHARD, or leave it out of the stage"
            yield _broken(
                place, value="{...}", rule=f"is not among data.sources ({known})", remedy=remedy
            )
        elif _is_replay(data, name=name):
            remedy = f"leave it out: replay is in every stage; {path}.replay_share sets its share"
            yield _broken(place, value="{...}", rule="is the replay source", remedy=remedy)
        if not (source.weight > 0 and math.isfinite(source.weight)):
            remedy = "use a positive weight, or leave the source out of the stage"
            yield _broken(
                f"{place}.weight", value=source.weight, rule="is not above 0", remedy=remedy
            )


def _stage_replay(data: DataConfig, *, path: str, stage: StageConfig) -> Iterator[Violation]:
    share = stage.replay_share
    if share is None:
        return
    if data.replay is None:
        remedy = "set data.replay.source and data.replay.share"
        yield _broken(
            f"{path}.replay_share", value=share, rule="needs a replay source", remedy=remedy
        )
    if not 0 < share < 1:
        remedy = "0.05 to 0.2 is usual"
        yield _broken(f"{path}.replay_share", value=share, rule="is outside (0, 1)", remedy=remedy)


def sequence_lengths(data: DataConfig) -> dict[str, int]:
    """Setting -> length, the start's and those of the stages."""
    stages = {
        f"data.stages.{name}.sequence_length": stage.sequence_length
        for name, stage in data.stages.items()
        if stage.sequence_length is not None
    }
    return {"data.sequence_length": data.sequence_length} | stages


def _lengths(data: DataConfig) -> Iterator[Violation]:
    if data.packing is not Packing.concat or data.order is not SampleOrder.keyed:
        return
    if data.chunk_length is not None and data.chunk_length < 1:
        yield _broken(
            "data.chunk_length", value=data.chunk_length, rule="is below 1", remedy="use 1 or more"
        )
    else:
        yield from length_violations(data, chunk=data.chunk_length or longest(data))


def longest(data: DataConfig) -> int:
    """Tokens of a sample, in the stage where it is longest."""
    return max(sequence_lengths(data).values())


def length_violations(data: DataConfig, *, chunk: int) -> list[Violation]:
    """Lengths that do not divide the chunks of a run."""
    lengths = sequence_lengths(data)
    common = math.lcm(*(length for length in lengths.values() if length >= 1))
    return [
        Violation(
            path=path,
            value=length,
            rule=f"does not divide the {chunk} tokens that are shuffled as one piece",
            remedy=f"use a divisor of {chunk}, or start a run with data.chunk_length={common}",
        )
        for path, length in lengths.items()
        if length >= 1 and chunk % length != 0
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
                rule = "is not possible with data.order=megatron"
                yield _broken(
                    path, value=value, rule=rule, remedy="use data.order=keyed, or leave it out"
                )
    elif data.packing is Packing.best_fit:
        for path, length in sequence_lengths(data).items():
            if length != data.sequence_length:
                rule = f"differs from data.sequence_length={data.sequence_length}, but best_fit "
                rule += "packs rows of one length"
                remedy = "use data.packing=concat, or one length in all stages"
                yield _broken(path, value=length, rule=rule, remedy=remedy)
        if data.chunk_length is not None:
            rule, remedy = "has no meaning with data.packing=best_fit", "leave it out"
            yield _broken("data.chunk_length", value=data.chunk_length, rule=rule, remedy=remedy)


def _broken(path: str, *, value: object, rule: str, remedy: str) -> Violation:
    return Violation(path=path, value=value, rule=rule, remedy=remedy)
