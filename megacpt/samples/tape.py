# SPDX-License-Identifier: Apache-2.0
"""One source as an endless tape of samples, any of which is found without the others.

An epoch of a stream is its C full chunks of L tokens, in an order shuffled by a keyed bijection,
and then its tail, the less than L targets that are left. In it every token but the stream's first
is a target once.

A sample of L tokens is a chunk. Shorter ones, of S tokens with L = m S, are dealt from a block of
chunks: the first S tokens of each chunk, then the second S of each, so that neighbours in a chunk
lie as many samples apart as the block has chunks. Whenever S changes, what is left of the epoch is
chunks without their beginnings ("runs"), chunks not begun, and the tail; the runs come first, laid
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


Pieces = tuple[Places, Places]
"""Starts and stops in a stream: piece i has inputs ``starts[i] .. stops[i]-2``, and the targets one
further."""


@dataclass(frozen=True, slots=True)
class Run:
    """Places ``first .. first+count-1`` of an epoch's order, each without ``skip`` targets."""

    first: int
    count: int
    skip: int


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of an epoch: the runs, and all places from ``first`` on."""

    epoch: int = 0
    runs: tuple[Run, ...] = ()
    first: int = 0


class Tape(Protocol):
    """The samples of a source in a segment, numbered from the segment's start."""

    samples_per_epoch: int

    def pieces(self, number: int) -> Pieces: ...

    def rest(self, number: int) -> Rest:
        """What the first ``number`` samples leave of the epoch they end in."""

    def epochs(self, number: int) -> float:
        """How often the source was gone through by then, in earlier segments too."""


class PackedRows(Protocol):
    """Rows of pieces that were worked out beforehand (megacpt.shards.packing)."""

    @property
    def num_rows(self) -> int: ...

    def row(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Starts and stops of its pieces."""


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


class Stream:
    """Targets 1 .. num_targets of a shard in chunks; place C of an epoch's order is the tail."""

    def __init__(self, num_tokens: int, *, chunk_length: int, key: Key) -> None:
        self.num_targets = num_tokens - 1
        self.chunk_length = chunk_length
        self.num_chunks, self.tail = divmod(self.num_targets, chunk_length)
        self._order = Shuffled(self.num_chunks, key=key)

    def start(self, epoch: int, *, place: int) -> int:
        """Where the chunk at this place begins in the stream."""
        chunk = self._order.at(epoch, place=place) if place < self.num_chunks else place
        return chunk * self.chunk_length

    def left(self, run: Run) -> int:
        """Targets of each of the run's chunks."""
        whole = self.chunk_length if run.first < self.num_chunks else self.tail
        return whole - run.skip


class ConcatTape:
    """Samples of ``sequence_length`` tokens from what ``rest`` leaves, then whole epochs."""

    def __init__(self, stream: Stream, *, rest: Rest, sequence_length: int, block: int) -> None:
        """``block``: the fewest chunks dealt together, where there are as many."""
        self.stream = stream
        self._length = sequence_length
        self._block = block
        self._parts = stream.chunk_length // sequence_length
        self._now = _Layout.of(rest, stream=stream, length=sequence_length)
        self._later = _Layout.of(Rest(), stream=stream, length=sequence_length)
        self.samples_per_epoch = self._later.samples

    def pieces(self, number: int) -> Pieces:
        epoch, layout, n = self._find(number)
        if n < layout.in_runs:
            return self._from_runs(epoch, layout=layout, n=n)
        n -= layout.in_runs
        if n < layout.in_chunks:
            start = self._start(epoch, first=layout.rest.first, n=n)
            return [start], [start + self._length + 1]
        n -= layout.in_chunks
        stream = self.stream
        start = stream.num_chunks * stream.chunk_length + n * self._length
        return [start], [min(start + self._length, stream.num_targets) + 1]

    def rest(self, number: int) -> Rest:
        epoch, layout, n = self._find(number)
        if n < layout.in_runs:
            runs = self._runs_after(layout.rest.runs, consumed=n * self._length)
            return Rest(epoch=epoch, runs=runs, first=layout.rest.first)
        n -= layout.in_runs
        if n < layout.in_chunks:
            block, size, n = self._dealt(layout.rest.first, n=n)
            return self._rest_of_block(epoch, block=block, size=size, n=n)
        n -= layout.in_chunks
        chunks = self.stream.num_chunks
        if n == 0:
            return Rest(epoch=epoch, first=chunks)
        return Rest(epoch=epoch, runs=(Run(chunks, 1, n * self._length),), first=chunks + 1)

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
        if self._parts == 1:
            return self.stream.start(epoch, place=first + n)
        block, size, n = self._dealt(first, n=n)
        part, place = divmod(n, size)
        return self.stream.start(epoch, place=block + place) + part * self._length

    def _dealt(self, first: int, *, n: int) -> tuple[int, int, int]:
        """Block of sample n of the chunks from ``first`` on: its first place, its number of
        chunks, and the number of the sample in it. The last block takes what would be too few."""
        chunks = self.stream.num_chunks - first
        last = max(chunks // self._block, 1) - 1
        block = min(n // (self._block * self._parts), last)
        begin = block * self._block
        size = self._block if block < last else chunks - begin
        return first + begin, size, n - begin * self._parts

    def _rest_of_block(self, epoch: int, *, block: int, size: int, n: int) -> Rest:
        part, place = divmod(n, size)
        begun = Run(block, place, (part + 1) * self._length)
        behind = Run(block + place, size - place if part else 0, part * self._length)
        runs = tuple(r for r in (begun, behind) if r.count and self.stream.left(r))
        return Rest(epoch=epoch, runs=runs, first=block + (size if part else place))

    def _from_runs(self, epoch: int, *, layout: _Layout, n: int) -> Pieces:
        at, end = n * self._length, min((n + 1) * self._length, layout.run_targets)
        starts, stops = [], []
        for run in layout.rest.runs:
            left = self.stream.left(run)
            while at < min(end, run.count * left):
                place, offset = divmod(at, left)
                start = self.stream.start(epoch, place=run.first + place) + run.skip + offset
                taken = min(left - offset, end - at)
                starts.append(start)
                stops.append(start + taken + 1)
                at += taken
            at, end = at - run.count * left, end - run.count * left
        return starts, stops

    def _runs_after(self, runs: tuple[Run, ...], *, consumed: int) -> tuple[Run, ...]:
        """The runs without their first ``consumed`` targets."""
        kept = []
        for run in runs:
            left = self.stream.left(run)
            places, offset = divmod(min(consumed, run.count * left), left)
            consumed = max(consumed - run.count * left, 0)
            if offset:
                kept.append(Run(run.first + places, 1, run.skip + offset))
                places += 1
            if places < run.count:
                kept.append(Run(run.first + places, run.count - places, run.skip))
        return tuple(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How many samples of one length each part of a rest gives."""

    rest: Rest
    run_targets: int
    targets: int
    in_runs: int
    in_chunks: int
    samples: int

    @classmethod
    def of(cls, rest: Rest, *, stream: Stream, length: int) -> _Layout:
        run_targets = sum(run.count * stream.left(run) for run in rest.runs)
        chunks = max(stream.num_chunks - rest.first, 0)
        tail = stream.tail if rest.first <= stream.num_chunks else 0
        in_runs = -(-run_targets // length)
        in_chunks = chunks * (stream.chunk_length // length)
        return cls(
            rest=rest,
            run_targets=run_targets,
            targets=run_targets + chunks * stream.chunk_length + tail,
            in_runs=in_runs,
            in_chunks=in_chunks,
            samples=in_runs + in_chunks + -(-tail // length),
        )


class PackedTape:
    """Rows of a packing in shuffled order, from place ``rest.first`` of epoch ``rest.epoch`` on."""

    def __init__(self, packing: PackedRows, *, rest: Rest, key: Key) -> None:
        self._packing = packing
        self._order = Shuffled(packing.num_rows, key=key)
        self._done = rest.epoch * packing.num_rows + rest.first
        self.samples_per_epoch = int(packing.num_rows)

    def pieces(self, number: int) -> Pieces:
        epoch, place = divmod(self._done + number, self.samples_per_epoch)
        return self._packing.row(self._order.at(epoch, place=place))

    def rest(self, number: int) -> Rest:
        epoch, place = divmod(self._done + number, self.samples_per_epoch)
        return Rest(epoch=epoch, first=place)

    def epochs(self, number: int) -> float:
        return (self._done + number) / self.samples_per_epoch
