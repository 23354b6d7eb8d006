# SPDX-License-Identifier: Apache-2.0
"""What the segments of a run must keep with its shards and its batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import SampleOrder
from megacpt.errors import ConfigError, Violation
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import blend_violations, sequence_lengths
from megacpt.plan.segments import (
    Segment,
    epoch_cap_violations,
    epoch_samples_of,
    resolve,
)


def _begin_apart(facts: Facts) -> Iterator[Violation]:
    data = facts.config.data
    if not data.sources or blend_violations(data):
        return
    try:
        resolve(data)
    except ConfigError as error:
        yield from error.violations


def _segments(facts: Facts) -> tuple[Segment, ...]:
    """Empty if the blend cannot be worked out: other rules say why."""
    try:
        return resolve(facts.config.data) if facts.config.data.sources else ()
    except ConfigError:
        return ()


def _replay_has_samples(facts: Facts) -> Iterator[Violation]:
    """Each side of the replay share has at least one sample of every global batch."""
    data, replay = facts.config.data, facts.config.data.replay
    if replay is None:
        return
    for segment in _segments(facts):
        share = float(segment.shares[replay.source])
        smaller, stage = min(share, 1 - share), data.stages.get(segment.name)
        if smaller * segment.global_batch_size < 1 - 1e-9:
            set_here = stage is not None and stage.replay_share is not None
            sized_here = stage is not None and stage.global_batch_size is not None
            path = f"data.stages.{segment.name}" if stage is not None else "data"
            batch = f"{path if sized_here else 'data'}.global_batch_size"
            yield Violation(
                path=f"{path}.replay_share" if set_here else "data.replay.share",
                value=share,
                rule="leaves less than one sample of a global batch for one side, "
                f"with {batch}={segment.global_batch_size}",
                remedy=f"use {batch}={math.ceil(1 / smaller - 1e-9)} or more",
            )


def _shards_hold_a_sample(facts: Facts) -> Iterator[Violation]:
    """Megatron's order makes a sample of several epochs where it must."""
    if facts.config.data.order is SampleOrder.megatron:
        return
    for path, length in sequence_lengths(facts.config.data).items():
        for name, tokens in (facts.shard_tokens or {}).items():
            if tokens < length + 1:
                yield Violation(
                    path=path,
                    value=length,
                    rule=f"needs {length + 1} tokens a sample, but source {name} holds {tokens}",
                    remedy=f"add text to {name}"
                    + (f" or use {tokens - 1} or less" if tokens > 2 else ""),
                )


def _epoch_caps(facts: Facts) -> Iterator[Violation]:
    data, steps, tokens = facts.config.data, facts.config.schedule.steps, facts.shard_tokens
    segments = _segments(facts)
    if tokens is None or not segments or steps < 1:
        return
    yield from epoch_cap_violations(
        data,
        segments=segments,
        steps=steps,
        epoch_samples=epoch_samples_of(data, tokens=tokens),
    )


RULES: tuple[Rule, ...] = (_begin_apart, _replay_has_samples, _shards_hold_a_sample, _epoch_caps)
