# SPDX-License-Identifier: Apache-2.0
"""One source as an endless tape of samples, any of which is found without the others.

An epoch of a stream is its C full tiles of L tokens, in an order shuffled by a keyed bijection,
and then its tail, the less than L targets that are left. In it every token but the stream's first
is a target once.

A sample of L tokens is a tile. Shorter ones, of S tokens with L = m S, are dealt from a group of
tiles: the first S tokens of each tile, then the second S of each, so that neighbours in a tile
lie as many samples apart as the group has tiles. Whenever S changes, what is left of the epoch is
tiles without their beginnings ("begun"), tiles not begun, and the tail; they come first, laid
end to end and cut to the new length. So a change of S costs one padded sample, and no token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.samples.batch import Places

Key = Callable[[int], int]
"""Epoch -> the 64 bits its order is shuffled with."""


Spans = tuple[Places, Places]
"""Starts and stops in a stream: span i has inputs ``starts[i] .. stops[i]-2``, and the targets one
further."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Places ``first .. first+count-1`` of an epoch's order, each without ``skip`` targets."""

    first: int
    count: int
    skip: int


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of an epoch: the begun tiles, and all places from ``first`` on."""

    epoch: int = 0
    begun: tuple[Begun, ...] = ()
    first: int = 0


class Tape(Protocol):
    """The samples of a source in a segment, numbered from the segment's start."""

    samples_per_epoch: int

    def spans(self, number: int) -> Spans: ...

    def rest(self, number: int) -> Rest:
        """What the first ``number`` samples leave of the epoch they end in."""

    def epochs(self, number: int) -> float:
        """How often the source was gone through by then, in earlier segments too."""


class RowsOfSpans(Protocol):
    """Rows of spans that were worked out beforehand (megacpt.shards.packing)."""

    @property
    def num_rows(self) -> int: ...

    def row(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Starts and stops of its spans."""


class Shuffled:
    """The order of ``size`` places in each epoch; any place costs the same."""

    def __init__(self, size: int, *, key: Key) -> None:
        self.size = size
        self._key = key
        self._latest: tuple[int, _C.Permutation] | None = None

    def at(self, epoch: int, *, place: int) -> int:
        latest = self._latest
        if latest is None or latest[0] != epoch:
            latest = self._latest = (epoch, _C.Permutation(self.size, key=self._key(epoch)))
        return latest[1](place)


class Tiles:
    """Targets 1 .. num_targets of a shard in tiles; place C of an epoch's order is the tail."""

    def __init__(self, num_tokens: int, *, chunk_length: int, key: Key) -> None:
        self.num_targets = num_tokens - 1
        self.chunk_length = chunk_length
        self.num_tiles, self.tail = divmod(self.num_targets, chunk_length)
        self._order = Shuffled(self.num_tiles, key=key)

    def start(self, epoch: int, *, place: int) -> int:
        """Where the tile at this place begins in the stream."""
        tile = self._order.at(epoch, place=place) if place < self.num_tiles else place
        return tile * self.chunk_length

    def left(self, some: Begun) -> int:
        """Targets of each of these tiles."""
        whole = self.chunk_length if some.first < self.num_tiles else self.tail
        return whole - some.skip


class ConcatTape:
    """Samples of ``sequence_length`` tokens from what ``rest`` leaves, then whole epochs."""

    def __init__(self, stream: Tiles, *, rest: Rest, sequence_length: int, group: int) -> None:
        """``group``: the fewest tiles dealt together, where there are as many."""
        self.stream = stream
        self._length = sequence_length
        self._group = group
        self._cuts = stream.chunk_length // sequence_length
        self._now = _Layout.of(rest, stream=stream, length=sequence_length)
        self._later = _Layout.of(Rest(), stream=stream, length=sequence_length)
        self.samples_per_epoch = self._later.samples

    def spans(self, number: int) -> Spans:
        epoch, layout, n = self._find(number)
        if n < layout.in_begun:
            return self._from_begun(epoch, layout=layout, n=n)
        n -= layout.in_begun
        if n < layout.in_tiles:
            start = self._start(epoch, first=layout.rest.first, n=n)
            return [start], [start + self._length + 1]
        n -= layout.in_tiles
        stream = self.stream
        start = stream.num_tiles * stream.chunk_length + n * self._length
        return [start], [min(start + self._length, stream.num_targets) + 1]

    def rest(self, number: int) -> Rest:
        epoch, layout, n = self._find(number)
        if n < layout.in_begun:
            begun = self._begun_after(layout.rest.begun, consumed=n * self._length)
            return Rest(epoch=epoch, begun=begun, first=layout.rest.first)
        n -= layout.in_begun
        if n < layout.in_tiles:
            group, size, n = self._dealt(layout.rest.first, n=n)
            return self._rest_of_group(epoch, group=group, size=size, n=n)
        n -= layout.in_tiles
        tiles = self.stream.num_tiles
        if n == 0:
            return Rest(epoch=epoch, first=tiles)
        return Rest(epoch=epoch, begun=(Begun(tiles, 1, n * self._length),), first=tiles + 1)

    def epochs(self, number: int) -> float:
        rest = self.rest(number)
        layout = _Layout.of(rest, stream=self.stream, length=self._length)
        return rest.epoch + 1 - layout.targets / self.stream.num_targets

    def _find(self, number: int) -> tuple[int, _Layout, int]:
        """Epoch, its layout and the number of the sample in it."""
        now = self._now
        if number < now.samples:
            return now.rest.epoch, now, number
        epochs, n = divmod(number - now.samples, self._later.samples)
        return now.rest.epoch + 1 + epochs, self._later, n

    def _start(self, epoch: int, *, first: int, n: int) -> int:
        if self._cuts == 1:
            return self.stream.start(epoch, place=first + n)
        group, size, n = self._dealt(first, n=n)
        part, place = divmod(n, size)
        return self.stream.start(epoch, place=group + place) + part * self._length

    def _dealt(self, first: int, *, n: int) -> tuple[int, int, int]:
        """Group of sample n of the tiles from ``first`` on: its first place, its number of
        tiles, and the number of the sample in it. The last group takes what would be too few."""
        tiles = self.stream.num_tiles - first
        last = max(tiles // self._group, 1) - 1
        group = min(n // (self._group * self._cuts), last)
        begin = group * self._group
        size = self._group if group < last else tiles - begin
        return first + begin, size, n - begin * self._cuts

    def _rest_of_group(self, epoch: int, *, group: int, size: int, n: int) -> Rest:
        part, place = divmod(n, size)
        first = Begun(group, place, (part + 1) * self._length)
        behind = Begun(group + place, size - place if part else 0, part * self._length)
        begun = tuple(b for b in (first, behind) if b.count and self.stream.left(b))
        return Rest(epoch=epoch, begun=begun, first=group + (size if part else place))

    def _from_begun(self, epoch: int, *, layout: _Layout, n: int) -> Spans:
        at, end = n * self._length, min((n + 1) * self._length, layout.begun_targets)
        starts, stops = [], []
        for some in layout.rest.begun:
            left = self.stream.left(some)
            while at < min(end, some.count * left):
                place, offset = divmod(at, left)
                start = self.stream.start(epoch, place=some.first + place) + some.skip + offset
                taken = min(left - offset, end - at)
                starts.append(start)
                stops.append(start + taken + 1)
                at += taken
            at, end = at - some.count * left, end - some.count * left
        return starts, stops

    def _begun_after(self, begun: tuple[Begun, ...], *, consumed: int) -> tuple[Begun, ...]:
        """The begun tiles without their first ``consumed`` targets."""
        kept = []
        for some in begun:
            left = self.stream.left(some)
            places, offset = divmod(min(consumed, some.count * left), left)
            consumed = max(consumed - some.count * left, 0)
            if offset:
                kept.append(Begun(some.first + places, 1, some.skip + offset))
                places += 1
            if places < some.count:
                kept.append(Begun(some.first + places, some.count - places, some.skip))
        return tuple(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How many samples of one length each part of a rest gives."""

    rest: Rest
    begun_targets: int
    targets: int
    in_begun: int
    in_tiles: int
    samples: int

    @classmethod
    def of(cls, rest: Rest, *, stream: Tiles, length: int) -> _Layout:
        begun_targets = sum(some.count * stream.left(some) for some in rest.begun)
        tiles = max(stream.num_tiles - rest.first, 0)
        tail = stream.tail if rest.first <= stream.num_tiles else 0
        in_begun = -(-begun_targets // length)
        in_tiles = tiles * (stream.chunk_length // length)
        return cls(
            rest=rest,
            begun_targets=begun_targets,
            targets=begun_targets + tiles * stream.chunk_length + tail,
            in_begun=in_begun,
            in_tiles=in_tiles,
            samples=in_begun + in_tiles + -(-tail // length),
        )


class PackedTape:
    """Rows of a packing in shuffled order, from place ``rest.first`` of epoch ``rest.epoch`` on."""

    def __init__(self, packing: RowsOfSpans, *, rest: Rest, key: Key) -> None:
        self._packing = packing
        self._order = Shuffled(packing.num_rows, key=key)
        self._done = rest.epoch * packing.num_rows + rest.first
        self.samples_per_epoch = int(packing.num_rows)

    def spans(self, number: int) -> Spans:
        epoch, place = divmod(self._done + number, self.samples_per_epoch)
        return self._packing.row(self._order.at(epoch, place=place))

    def rest(self, number: int) -> Rest:
        epoch, place = divmod(self._done + number, self.samples_per_epoch)
        return Rest(epoch=epoch, first=place)

    def epochs(self, number: int) -> float:
        return (self._done + number) / self.samples_per_epoch
