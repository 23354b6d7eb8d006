# SPDX-License-Identifier: Apache-2.0
"""Shares are exact fractions; each batch holds their floor or ceiling, every prefix stays near."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.config.sections import DataConfig, ReplayConfig, SourceConfig
from megacpt.data.blend import LARGEST_DENOMINATOR, BlendCursor, numerators, source_shares
from megacpt.errors import ConfigError


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


def test_replay_takes_its_share_and_weights_split_the_rest() -> None:
    replay = ReplayConfig(source="r", share=0.1)
    assert source_shares(blend({"a": 2, "r": 99, "b": 1}, replay=replay)) == {
        "a": Fraction(6, 10),
        "r": Fraction(1, 10),
        "b": Fraction(3, 10),
    }


@given(config=blends())
@settings(max_examples=80, deadline=None)
def test_shares_are_one_whole(config: DataConfig) -> None:
    shares = source_shares(config)
    assert tuple(shares) == tuple(config.sources)
    assert sum(shares.values()) == 1
    parts, denominator = numerators(list(shares.values()))
    assert sum(parts) == denominator <= LARGEST_DENOMINATOR
    for part, share in zip(parts, shares.values(), strict=True):
        assert abs(Fraction(part, denominator) - share) < Fraction(1, LARGEST_DENOMINATOR)


@given(config=blends(), steps=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_every_batch_is_floor_or_ceiling_and_every_prefix_within_one(
    config: DataConfig, steps: int
) -> None:
    shares = source_shares(config)
    parts, denominator = numerators(list(shares.values()))
    cursor = BlendCursor(shares, global_batch_size=config.global_batch_size)
    drawn = [0] * len(shares)
    for step in range(steps):
        found = cursor.at(step)
        assert list(found.before) == drawn
        assert sum(found.counts) == config.global_batch_size
        for d, part in enumerate(parts):
            quota = Fraction(part, denominator) * config.global_batch_size
            assert found.counts[d] in (floor(quota), ceil(quota))
            drawn[d] += found.counts[d]
            assert abs(drawn[d] - quota * (step + 1)) < 1


@given(config=blends(), steps=st.lists(st.integers(0, 60), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_where_the_cursor_was_does_not_matter(config: DataConfig, steps: list[int]) -> None:
    shares = source_shares(config)
    moved = BlendCursor(shares, global_batch_size=config.global_batch_size)
    for step in steps:
        fresh = BlendCursor(shares, global_batch_size=config.global_batch_size)
        assert moved.at(step) == fresh.at(step)


def test_a_tenth_of_ten_is_one_in_every_batch() -> None:
    config = blend({"a": 1, "r": 1}, replay=ReplayConfig(source="r", share=0.1), batch=10)
    cursor = BlendCursor(source_shares(config), global_batch_size=10)
    assert {cursor.at(step).counts for step in range(500)} == {(9, 1)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (blend({}), "data.sources=0 holds nothing to train on"),
        (blend({"a": 0.0}), "data.sources.a.weight=0.0 must be above 0; give a number above 0"),
        (blend({"a": -1.0}), "data.sources.a.weight=-1.0 must be above 0"),
        (blend({"a": float("nan")}), "data.sources.a.weight=nan must be above 0"),
        (
            blend({"a": 1}, replay=ReplayConfig(source="r", share=0.1)),
            "data.replay.source=r is no source; use one of a",
        ),
        (
            blend({"a": 1}, replay=ReplayConfig(source="a", share=0.1)),
            "data.sources=1 holds nothing to train on; name a token shard",
        ),
        (
            blend({"a": 1, "r": 1}, replay=ReplayConfig(source="r", share=1.0)),
            "data.replay.share=1.0 must be above 0 and below 1; use a fraction",
        ),
    ],
)
def test_an_impossible_blend_is_named(config: DataConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source_shares(config)


def test_all_faults_are_named_at_once() -> None:
    replay = ReplayConfig(source="r", share=2.0)
    with pytest.raises(ConfigError) as caught:
        source_shares(blend({"a": 0.0, "b": -1.0}, replay=replay))
    assert len(caught.value.violations) == 4
