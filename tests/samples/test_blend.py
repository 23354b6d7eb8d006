# SPDX-License-Identifier: Apache-2.0
"""Shares are exact fractions; each batch holds their floor or ceiling, every prefix stays near."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.config.sections import DataConfig, ReplayConfig, SourceConfig
from megacpt.plan.segments import Segment, resolve
from megacpt.samples.blend import LARGEST_DENOMINATOR, BlendCursor, numerators


def blend(
    weights: dict[str, float], *, replay: ReplayConfig | None = None, batch: int = 8
) -> DataConfig:
    sources = {name: SourceConfig(prefix=name, weight=w) for name, w in weights.items()}
    return DataConfig(sources=sources, replay=replay, global_batch_size=batch)


@st.composite
def blends(draw: st.DrawFn) -> DataConfig:
    weight = st.floats(1e-3, 1e3) | st.integers(1, 20).map(float)
    weights = draw(st.lists(weight, min_size=1, max_size=8))
    sources = {f"s{n}": w for n, w in enumerate(weights)}
    replay = None
    if draw(st.booleans()):
        share = draw(st.floats(0.01, 0.99) | st.sampled_from([0.05, 0.1, 0.2, 0.25]))
        replay = ReplayConfig(source="r", share=share)
        sources["r"] = 1.0
    return blend(sources, replay=replay, batch=draw(st.integers(1, 64)))


@given(config=blends())
@settings(max_examples=80, deadline=None)
def test_shares_are_one_whole(config: DataConfig) -> None:
    shares = resolve(config)[0].shares
    assert tuple(shares) == tuple(config.sources)
    assert sum(shares.values()) == 1
    parts, denominator = numerators(list(shares.values()))
    assert sum(parts) == denominator <= LARGEST_DENOMINATOR
    for part, share in zip(parts, shares.values(), strict=True):
        assert abs(Fraction(part, denominator) - share) < Fraction(1, LARGEST_DENOMINATOR)


def segment_of(config: DataConfig) -> Segment:
    return resolve(config)[0]


@given(config=blends(), steps=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_every_batch_is_floor_or_ceiling_and_every_prefix_within_one(
    config: DataConfig, steps: int
) -> None:
    segment = segment_of(config)
    parts, denominator = numerators(list(segment.shares.values()))
    cursor = BlendCursor(segment)
    drawn = [0] * len(parts)
    for step in range(steps):
        found = cursor.at(step)
        assert list(found.before) == drawn
        assert sum(found.counts) == config.global_batch_size
        for d, part in enumerate(parts):
            quota = Fraction(part, denominator) * config.global_batch_size
            assert found.counts[d] in (floor(quota), ceil(quota))
            drawn[d] += found.counts[d]
            assert abs(drawn[d] - quota * (step + 1)) < 1


@given(config=blends(), steps=st.lists(st.integers(0, 200), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_where_the_cursor_was_does_not_matter(config: DataConfig, steps: list[int]) -> None:
    """Nor does what it was told of an earlier or a later step."""
    segment = segment_of(config)
    moved = BlendCursor(segment)
    for step in steps:
        fresh = BlendCursor(segment)
        told = BlendCursor(segment, known=(step, moved.state(step).drawn))
        assert moved.at(step) == fresh.at(step) == told.at(step)
        assert moved.state(step) == told.state(step)
        assert told.at(step // 2) == fresh.at(step // 2)


def test_threads_may_share_a_cursor() -> None:
    """A reader ahead and a loop behind, as with prefetching."""
    config = blend({"a": 3, "b": 2, "c": 7.5}, batch=5)
    shared, alone = BlendCursor(segment_of(config)), BlendCursor(segment_of(config))
    expected = [alone.at(step) for step in range(600)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: [shared.at(step) for step in range(n, 600)], range(4)))
    assert found == [expected[n:] for n in range(4)]


def test_a_segment_counts_from_its_own_start() -> None:
    config = blend({"a": 1, "b": 1}, batch=3)
    first = segment_of(config)
    later = replace(first, from_step=101)
    assert BlendCursor(later).at(106) == BlendCursor(first).at(5)


def test_a_tenth_of_ten_is_one_in_every_batch() -> None:
    config = blend({"a": 1, "r": 1}, replay=ReplayConfig(source="r", share=0.1), batch=10)
    cursor = BlendCursor(segment_of(config))
    assert {cursor.at(step).counts for step in range(500)} == {(9, 1)}
