# SPDX-License-Identifier: Apache-2.0
"""Files are written to the byte as planned, with little of them in memory, and once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
import xxhash

from megacpt.convert.sources import LiesAt, SourceTensor
from megacpt.convert.stream import CHUNK_BYTES, OutputFile, Piece, unwritten_bytes, write_files
from tests.convert.support import held_in_memory

VALUES = torch.randn(3000, 700, generator=torch.Generator().manual_seed(1))
FULL = SourceTensor(shape=(3000, 700), dtype=torch.float32, fill=held_in_memory(VALUES).fill)


def two_files(*, summed: bool, sizes: list[int] | None = None) -> list[OutputFile]:
    def fill(out: torch.Tensor, *, first: int) -> None:
        if sizes is not None:
            sizes.append(out.nbytes)
        FULL.fill(out, first=first)

    piece = Piece(at=3, shape=FULL.shape, dtype=FULL.dtype, fill=fill, head=b"<<", tail=b">")
    last = Piece(at=3 + piece.bytes, shape=(4, 700), dtype=torch.float32, fill=FULL.fill)
    return [
        OutputFile(name=name, head=b"top", pieces=[piece, last], summed=summed)
        for name in ("a", "b")
    ]


@pytest.mark.parametrize("summed", [True, False])
def test_every_byte_is_as_planned(summed: bool, tmp_path: Path) -> None:
    files, sizes, seen = [], [], []
    files = two_files(summed=summed, sizes=sizes)
    sums = write_files(files, folder=tmp_path, progress=lambda done, total: seen.append(done))
    content = b"top<<" + VALUES.numpy().tobytes() + b">" + VALUES[:4].numpy().tobytes()
    for file in files:
        assert (tmp_path / file.name).read_bytes() == content
        if summed:
            assert sums[file.name].xxh128 == xxhash.xxh3_128_hexdigest(content)
            assert sums[file.name].bytes == len(content) == file.bytes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert seen == sorted(seen)
    assert seen[-1] == 2 * len(content)
    # Of 8.4 MB no more than a chunk was in memory.
    assert max(sizes) <= CHUNK_BYTES


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    first = write_files(two_files(summed=True), folder=tmp_path)
    (tmp_path / "b").unlink()
    stamp = (tmp_path / "a").stat().st_mtime_ns
    assert unwritten_bytes(two_files(summed=True), folder=tmp_path) == first["b"].bytes
    assert write_files(two_files(summed=True), folder=tmp_path) == first
    assert (tmp_path / "a").stat().st_mtime_ns == stamp


def test_a_failure_in_a_thread_is_raised(tmp_path: Path) -> None:
    def fill(out: torch.Tensor, *, first: int) -> None:
        raise OSError(5, "broken")

    piece = Piece(at=0, shape=(2,), dtype=torch.float32, fill=fill)
    with pytest.raises(OSError, match="broken"):
        write_files([OutputFile(name="a", pieces=[piece])], folder=tmp_path)
    assert not (tmp_path / "a").exists()


def test_what_is_read_from_one_file_is_read_in_its_order_by_one_writer(tmp_path: Path) -> None:
    read: list[tuple[str, int, int]] = []

    def piece(number: int, *, place: LiesAt) -> Piece:
        def fill(out: torch.Tensor, *, first: int) -> None:
            read.append((place.file.name, place.at, threading.get_ident()))
            time.sleep(0.001)
            out.fill_(number)

        return Piece(at=8 * number, shape=(2,), dtype=torch.float32, fill=fill, place=place)

    places = [LiesAt(file=Path(f"f{n % 3}"), at=37 * n % 100) for n in range(30)]
    pieces = [piece(number, place=place) for number, place in enumerate(places)]
    write_files([OutputFile(name="a", pieces=pieces)], folder=tmp_path)
    values = torch.frombuffer(bytearray((tmp_path / "a").read_bytes()), dtype=torch.float32)
    assert values.tolist() == [float(n) for n in range(30) for _ in range(2)]
    for file in {place.file.name for place in places}:
        own = [(at, thread) for name, at, thread in read if name == file]
        assert [at for at, _ in own] == sorted(at for at, _ in own)
        assert len({thread for _, thread in own}) == 1
