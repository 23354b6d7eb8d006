# SPDX-License-Identifier: Apache-2.0
"""The order of a run as arithmetic: (shards, segments, seed, step, position) -> spans of a stream.

    step      -> its segment, and how many samples each source has given in it before  (blend.py)
    position  -> slot of the batch, by a bijection keyed (seed, step)
    slot      -> source, and the number of the sample among the source's in the segment
    number    -> epoch, place in its shuffled order, and spans                        (tape.py)

Nothing is drawn, stored or built: any process computes any sample of any step by itself.
"""

from __future__ import annotations

import hashlib
import math
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from megacpt import _C
from megacpt.plan.segments import Segment
from megacpt.samples.batch import Row
from megacpt.samples.blend import RECENT_STEPS, BlendCursor
from megacpt.samples.record import DrawnSegment
from megacpt.samples.tape import ConcatTape, Key, PackedTape, Rest, RowsOfSpans, Tape, Tiles
from megacpt.shards.reader import IndexedShard

FEWEST_TILES = 64
BATCHES_APART = 4
"""Neighbours in a tile are dealt to batches at least this far apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A shard and how it is cut."""

    name: str
    number: int
    """``source_id`` of its rows."""
    shard: IndexedShard
    cut: Tiles | RowsOfSpans
    key: Key

    def tape(self, rest: Rest, *, segment: Segment) -> Tape:
        if not isinstance(self.cut, Tiles):
            return PackedTape(self.cut, rest=rest, key=self.key)
        share = segment.shares.get(self.name, 0)
        return ConcatTape(
            self.cut,
            rest=rest,
            sequence_length=segment.sequence_length,
            group=max(BATCHES_APART * math.ceil(share * segment.global_batch_size), FEWEST_TILES),
        )


def epoch_key(seed: int, *, name: str) -> Key:
    """What shuffles the epochs of a source."""
    return lambda epoch: order_key("epoch", seed, name, epoch)


def order_key(*parts: object) -> int:
    """64 bits that depend on every part."""
    digest = hashlib.sha256(repr(parts).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deal:
    """One global batch: slots ``ends[k-1] .. ends[k]-1`` are of the segment's source k."""

    before: tuple[int, ...]
    ends: list[int]
    shuffled: _C.Permutation


@dataclass(slots=True, kw_only=True)
class _Leg:
    """A segment with all that came before it."""

    segment: Segment
    cursor: BlendCursor
    sources: Mapping[str, Source]
    rests: Mapping[str, Rest]
    """What earlier segments left of each source's epoch."""
    consumed: Mapping[str, int]
    """Samples of each source in earlier segments."""
    seed: int
    tapes: dict[str, Tape] = field(default_factory=dict)
    active: list[tuple[Source, Tape]] = field(default_factory=list)
    deals: dict[int, _Deal] = field(default_factory=dict)
    """Of recent steps."""

    def __post_init__(self) -> None:
        self.active = [(self.sources[name], self.tape(name)) for name in self.segment.shares]

    def tape(self, name: str) -> Tape:
        if name not in self.tapes:
            self.tapes[name] = self.sources[name].tape(self.rests[name], segment=self.segment)
        return self.tapes[name]

    def deal(self, step: int) -> _Deal:
        return self.deals.get(step) or self._new_deal(step)

    def _new_deal(self, step: int) -> _Deal:
        drawn = self.cursor.at(step)
        deal = _Deal(
            before=drawn.before,
            ends=list(accumulate(drawn.counts)),
            shuffled=_C.Permutation(
                self.segment.global_batch_size, key=order_key("batch", self.seed, step)
            ),
        )
        self.deals = {**self.deals, step: deal} if len(self.deals) < RECENT_STEPS else {step: deal}
        return deal

    def drawn(self, step: int) -> dict[str, int]:
        """Samples of the segment's sources in it, before ``step``."""
        return dict(zip(self.segment.shares, self.cursor.state(step).drawn, strict=True))

    def rests_after(self, drawn: Mapping[str, int]) -> dict[str, Rest]:
        done = {name: self.tape(name).rest(samples) for name, samples in drawn.items()}
        return {**self.rests, **done}

    def consumed_after(self, drawn: Mapping[str, int]) -> dict[str, int]:
        return {name: n + drawn.get(name, 0) for name, n in self.consumed.items()}


class KeyedOrder:
    """The samples of a run; every method is a pure function of its arguments. Threads may share
    it."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        segments: Sequence[Segment],
        seed: int,
        known: Sequence[tuple[int, DrawnSegment]] = (),
    ) -> None:
        """``known``: what segments have drawn before a step in them or at their end; it spares
        counting again."""
        self.sources = sources
        self.segments = tuple(segments)
        self._begins = [segment.from_step for segment in segments]
        self.seed = seed
        self._known = {drawn.segment.from_step: (step, drawn.drawn) for step, drawn in known}
        self._legs: list[_Leg] = []
        self._lock = threading.Lock()

    def rows(self, step: int, *, positions: Sequence[int]) -> list[Row]:
        """Samples of global batch ``step`` (the first is 0) at ``positions`` of its B."""
        leg = self._leg(step)
        deal = leg.deal(int(step))
        return [_row(leg, deal=deal, position=position) for position in positions]

    def consumed_samples(self, steps: int) -> dict[str, int]:
        """Samples of each source in the first ``steps`` global batches."""
        leg = self._leg(steps)
        return leg.consumed_after(leg.drawn(steps))

    def epochs(self, steps: int) -> dict[str, float]:
        """How often the first ``steps`` global batches go through each source."""
        leg = self._leg(steps)
        drawn = leg.drawn(steps)
        return {name: leg.tape(name).epochs(drawn.get(name, 0)) for name in self.sources}

    def samples_per_epoch(self, name: str, *, sequence_length: int) -> int:
        segment = next(s for s in self.segments if s.sequence_length == sequence_length)
        return self.sources[name].tape(Rest(), segment=segment).samples_per_epoch

    def drawn_segments(self, step: int) -> tuple[DrawnSegment, ...]:
        """The segments that have begun, with what was drawn in each before ``step``."""
        begun = [s for s in self.segments if s.from_step < step] or [self.segments[0]]
        ends = [s.from_step for s in begun[1:]] + [step]
        return tuple(
            DrawnSegment(segment=s, drawn=self._leg(s.from_step).cursor.state(end).drawn)
            for s, end in zip(begun, ends, strict=True)
        )

    def _leg(self, step: int) -> _Leg:
        """Counts through earlier segments once: O(sources) a step of theirs that is not known."""
        index = bisect_right(self._begins, step) - 1
        if index >= len(self._legs):
            with self._lock:
                while index >= len(self._legs):
                    self._legs.append(self._next_leg(len(self._legs)))
        return self._legs[index]

    def _next_leg(self, index: int) -> _Leg:
        segment = self.segments[index]
        rests: Mapping[str, Rest] = {name: Rest() for name in self.sources}
        consumed: Mapping[str, int] = dict.fromkeys(self.sources, 0)
        if index:
            before = self._legs[index - 1]
            drawn = before.drawn(segment.from_step)
            rests, consumed = before.rests_after(drawn), before.consumed_after(drawn)
        return _Leg(
            segment=segment,
            cursor=BlendCursor(segment, known=self._known.get(segment.from_step)),
            sources=self.sources,
            rests=rests,
            consumed=consumed,
            seed=self.seed,
        )


def _row(leg: _Leg, *, deal: _Deal, position: int) -> Row:
    slot = deal.shuffled(position)
    k = bisect_right(deal.ends, slot)
    source, tape = leg.active[k]
    begin = deal.ends[k - 1] if k else 0
    starts, stops = tape.spans(deal.before[k] + slot - begin)
    return Row(source.shard, source.number, starts, stops)
