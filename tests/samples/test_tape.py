# SPDX-License-Identifier: Apache-2.0
"""The tape of a source: every target once an epoch, whatever the lengths and where they change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.samples.tape import Begun, ConcatTape, PackedTape, Rest, Shuffled, Tiles


def key(epoch: int) -> int:
    return 1000 + epoch


def targets(tape: ConcatTape, number: int) -> list[int]:
    starts, stops = (np.asarray(ends).tolist() for ends in tape.spans(number))
    return [t for a, b in zip(starts, stops, strict=True) for t in range(a + 1, b)]


@dataclass(frozen=True)
class Case:
    stream: Tiles
    segments: list[tuple[int, int, int]]
    """Sequence length, samples, group."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tile = draw(st.sampled_from([1, 2, 6, 8, 12, 24]))
    stream = Tiles(draw(st.integers(2, 400)), chunk_length=tile, key=key)
    lengths = st.sampled_from([n for n in range(1, tile + 1) if tile % n == 0])
    stage = st.tuples(lengths, st.integers(0, 150), st.integers(1, 9))
    return Case(stream, draw(st.lists(stage, min_size=1, max_size=6)))


@given(case=cases())
@settings(max_examples=400, deadline=None)
def test_stages_lose_and_repeat_nothing(case: Case) -> None:
    """Targets in the order they are drawn: each epoch is complete before the next begins."""
    rest, drawn = Rest(), list[int]()
    for length, samples, group in case.segments:
        tape = ConcatTape(case.stream, rest=rest, sequence_length=length, group=group)
        for number in range(samples):
            sample = targets(tape, number)
            assert 1 <= len(sample) <= length
            drawn += sample
        assert tape.epochs(samples) == pytest.approx(len(drawn) / case.stream.num_targets)
        rest = tape.rest(samples)
    epoch = case.stream.num_targets
    for start in range(0, len(drawn), epoch):
        part = drawn[start : start + epoch]
        assert len(set(part)) == len(part)
        assert len(part) < epoch or sorted(part) == list(range(1, epoch + 1))


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_a_sample_does_not_depend_on_what_was_read_before(case: Case) -> None:
    length, samples, group = case.segments[0]
    used, fresh = (
        ConcatTape(case.stream, rest=Rest(), sequence_length=length, group=group) for _ in range(2)
    )
    backwards = [targets(used, n) for n in range(samples, -1, -1)]
    assert backwards[::-1] == [targets(fresh, n) for n in range(samples + 1)]


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_only_the_last_sample_of_a_rest_is_short(case: Case) -> None:
    """One length: as many samples as the whole epoch needs, and one short at its end."""
    length, _, group = case.segments[0]
    tape = ConcatTape(case.stream, rest=Rest(), sequence_length=length, group=group)
    sizes = [len(targets(tape, n)) for n in range(tape.samples_per_epoch)]
    assert sum(sizes) == case.stream.num_targets
    assert set(sizes[:-1]) <= {length}


def dealt_twin(order: list[int], *, parts: int, group: int) -> list[tuple[int, int]]:
    """(tile, part) in the order of the samples, dealt by hand."""
    cuts = list(range(0, max(len(order) // group, 1) * group, group))
    dealt = []
    for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
        dealt += [(tile, part) for part in range(parts) for tile in order[start:stop]]
    return dealt


@given(
    tiles=st.integers(1, 60),
    parts=st.integers(1, 8),
    group=st.integers(1, 70),
    length=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_parts_of_tiles_are_dealt_as_by_hand(
    tiles: int, parts: int, group: int, length: int
) -> None:
    stream = Tiles(tiles * parts * length + 1, chunk_length=parts * length, key=key)
    tape = ConcatTape(stream, rest=Rest(), sequence_length=length, group=group)
    order = [stream.start(0, place=place) // (parts * length) for place in range(tiles)]
    expected = dealt_twin(order, parts=parts, group=group)
    found = [targets(tape, n)[0] - 1 for n in range(tiles * parts)]
    assert found == [(tile * parts + part) * length for tile, part in expected]


def test_neighbours_in_a_tile_lie_a_group_apart() -> None:
    stream = Tiles(1000 * 8 + 1, chunk_length=8, key=key)
    tape = ConcatTape(stream, rest=Rest(), sequence_length=2, group=64)
    at = {targets(tape, n)[0]: n for n in range(4000)}
    gaps = [at[first + 2] - n for first, n in at.items() if first + 2 in at and first % 8 != 7]
    assert min(gaps) >= 64


def test_a_change_of_length_hands_over_the_rest_of_the_group() -> None:
    stream = Tiles(40 * 8 + 4, chunk_length=8, key=key)
    tape = ConcatTape(stream, rest=Rest(), sequence_length=4, group=10)
    assert tape.rest(3) == Rest(0, (Begun(0, 3, 4),), 3)
    assert tape.rest(13) == Rest(0, (Begun(3, 7, 4),), 10)
    assert tape.rest(20) == Rest(0, (), 10)
    assert tape.rest(80) == Rest(0, (), 40)
    assert tape.rest(81) == Rest(1, (), 0)
    long = ConcatTape(stream, rest=tape.rest(13), sequence_length=8, group=10)
    starts, stops = long.spans(0)
    assert starts == [stream.start(0, place=3) + 4, stream.start(0, place=4) + 4]
    assert [b - a for a, b in zip(starts, stops, strict=True)] == [5, 5]


def test_whole_tiles_are_only_shuffled() -> None:
    stream = Tiles(50 * 4 + 1, chunk_length=4, key=key)
    tape = ConcatTape(stream, rest=Rest(), sequence_length=4, group=7)
    order = Shuffled(50, key=key)
    found = [targets(tape, n)[0] - 1 for n in range(100)]
    assert found == [4 * order.at(epoch, place=place) for epoch in (0, 1) for place in range(50)]


class Rows:
    """Row k is the one piece k*10 .. k*10+9."""

    num_rows = 13

    def row(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return np.array([number * 10]), np.array([number * 10 + 10])


@given(cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=60, deadline=None)
def test_packed_rows_come_once_an_epoch(cuts: list[int]) -> None:
    drawn, rest = [], Rest()
    for samples in cuts:
        tape = PackedTape(Rows(), rest=rest, key=key)
        drawn += [int(np.asarray(tape.spans(n)[0])[0]) // 10 for n in range(samples)]
        assert tape.epochs(samples) == pytest.approx(len(drawn) / 13)
        rest = tape.rest(samples)
    for start in range(0, len(drawn) - 12, 13):
        assert sorted(drawn[start : start + 13]) == list(range(13))
