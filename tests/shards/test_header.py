# SPDX-License-Identifier: Apache-2.0
"""What megatron-core reads is read alike, or refused by its name: never called damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megacpt.errors import DataError
from megacpt.samples.heldout import HeldoutSet
from megacpt.shards.format import HEADER, MAGIC
from megacpt.shards.merge import merge_shards
from megacpt.shards.packing import pack
from megacpt.shards.reader import IndexedShard
from tests.shards.test_reader import megatron

INTEGERS = ["uint8", "int8", "int16", "int32", "int64", "uint16"]
SEQUENCES = [[72, 105, 0], [], [9], [100, 101, 102, 0], [3, 0]]


def build(prefix: Path, *, dtype: str = "int32", modes: list[int] | None = None) -> Any:
    """A shard of SEQUENCES by megatron-core, a document each, and megatron-core's reader of it."""
    import torch

    oracle = megatron()
    builder = oracle.IndexedDatasetBuilder(
        f"{prefix}.bin", dtype=np.dtype(dtype).type, multimodal=modes is not None
    )
    for n, ids in enumerate(SEQUENCES):
        builder.add_item(torch.tensor(ids, dtype=torch.float64), modes[n] if modes else 0)
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    return oracle.IndexedDataset(str(prefix), multimodal=modes is not None)


def read_all(shard: IndexedShard) -> list[list[int]]:
    return [shard.document(n).tolist() for n in range(shard.num_documents)]


@pytest.mark.mcore
@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_type_is_read_merged_packed_and_sampled(tmp_path: Path, dtype: str) -> None:
    theirs = build(tmp_path / "s", dtype=dtype)
    shard = IndexedShard(tmp_path / "s")
    shard.check_index()
    assert shard.dtype == theirs.index.dtype
    assert read_all(shard) == [theirs[n].tolist() for n in range(len(theirs))] == SEQUENCES
    stream = [id_ for ids in SEQUENCES for id_ in ids]
    held_out = HeldoutSet.open(tmp_path / "s", sequence_length=4, max_tokens=0, vocab_size=106)
    batch = held_out.load(range(held_out.num_samples))
    assert batch.tokens_BS.ravel()[:9].tolist() == stream[:-1]
    assert batch.labels_BS.ravel()[:9].tolist() == stream[1:]
    merge_shards([tmp_path / "s", tmp_path / "s"], output_prefix=tmp_path / "m")
    twice = megatron().IndexedDataset(str(tmp_path / "m"))
    assert [twice[n].tolist() for n in range(len(twice))] == SEQUENCES * 2
    assert twice.index.dtype == shard.dtype
    assert pack([tmp_path / "s"], sequence_length=4)[0].inputs == 6


@pytest.mark.mcore
@pytest.mark.parametrize("dtype", ["int8", "int16", "int64"])
def test_a_negative_id_of_any_type_is_named_when_it_is_sampled(tmp_path: Path, dtype: str) -> None:
    build(tmp_path / "s", dtype=dtype)
    content: npt.NDArray[Any] = np.fromfile(tmp_path / "s.bin", dtype=dtype)
    content[4] = -100
    content.tofile(tmp_path / "s.bin")
    held_out = HeldoutSet.open(tmp_path / "s", sequence_length=3, max_tokens=0)
    assert held_out.load([0]).tokens_BS.tolist() == [[72, 105, 0]]
    with pytest.raises(DataError, match="holds id -100 at token 4"):
        held_out.load([1])


@pytest.mark.mcore
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16"])
def test_a_multimodal_index_of_text_is_read(tmp_path: Path, dtype: str) -> None:
    theirs = build(tmp_path / "s", dtype=dtype, modes=[0] * 5)
    assert read_all(IndexedShard(tmp_path / "s")) == [theirs[n][0].tolist() for n in range(5)]


@pytest.mark.mcore
@pytest.mark.parametrize(
    ("modes", "found"),
    [([0, 1, 0, 0, 0], "1 of its 5"), ([1] * 5, "5 of its 5"), ([0, 2, 3, 0, 0], "2 of its 5")],
)
def test_a_multimodal_index_with_images_is_named(
    tmp_path: Path, modes: list[int], found: str
) -> None:
    build(tmp_path / "s", modes=modes)
    with pytest.raises(DataError, match=rf"is multimodal: {found} sequences .* it is valid, but"):
        IndexedShard(tmp_path / "s")


@pytest.mark.mcore
@pytest.mark.parametrize(("dtype", "code"), [("float64", 6), ("float32", 7)])
def test_floating_point_numbers_are_named(tmp_path: Path, dtype: str, code: int) -> None:
    theirs = build(tmp_path / "s", dtype=dtype)
    assert theirs[0].tolist() == SEQUENCES[0]
    words = f"type code {code}: floating-point numbers, not token ids; it is valid, but megacpt"
    with pytest.raises(DataError, match=words):
        IndexedShard(tmp_path / "s")


def header(code: int, *, counts: list[int]) -> bytes:
    return MAGIC + struct.pack(f"<QB{len(counts)}Q", 1, code, *counts)


LENGTHS_AND_OFFSETS = struct.pack("<2i2q", 3, 1, 0, 12)
RELATIVES = {
    "fairseq": (header(4, counts=[2]) + LENGTHS_AND_OFFSETS, "is an index of fairseq"),
    "fairseq, uint32": (header(9, counts=[2]) + LENGTHS_AND_OFFSETS, "is an index of fairseq"),
    "fairseq, double": (header(7, counts=[2]) + LENGTHS_AND_OFFSETS, "is an index of fairseq"),
    "DeepSpeed's uint32": (
        header(9, counts=[2, 2]) + LENGTHS_AND_OFFSETS + struct.pack("<2q", 0, 2),
        "has type code 9: uint32, which Megatron-DeepSpeed alone writes, not token ids",
    ),
    "DeepSpeed's uint64": (
        header(10, counts=[2, 2]) + LENGTHS_AND_OFFSETS + struct.pack("<2q", 0, 2),
        "has type code 10: uint64",
    ),
    "cached": (b"TNTIDX\0\0" + struct.pack("<4Q", 1, 4, 4, 2), "--dataset-impl lazy or cached"),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_of_the_format_are_named(tmp_path: Path, name: str) -> None:
    content, words = RELATIVES[name]
    (tmp_path / "s.idx").write_bytes(content)
    (tmp_path / "s.bin").write_bytes(bytes(16))
    with pytest.raises(DataError, match=words) as caught:
        IndexedShard(tmp_path / "s")
    assert "it is valid, but megacpt does not read it" in str(caught.value)


Index = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def rewrite(prefix: Path, change: Callable[[Index, bytearray], Index]) -> Any:
    """Give a shard of SEQUENCES another index, as a tool could that drops or sorts documents."""
    theirs = build(prefix)
    index = theirs.index
    arrays = (index.sequence_lengths, index.sequence_pointers, index.document_indices)
    content = bytearray(Path(f"{prefix}.bin").read_bytes())
    lengths, offsets, bounds = change(tuple(a.copy() for a in arrays), content)
    Path(f"{prefix}.bin").write_bytes(content)
    head = HEADER.pack(MAGIC, 1, 4, lengths.size, bounds.size)
    parts = [lengths.tobytes(), offsets.tobytes(), bounds.tobytes()]
    Path(f"{prefix}.idx").write_bytes(b"".join([head, *parts]))
    return megatron().IndexedDataset(str(prefix))


def keep(*numbers: int) -> Callable[[Index, bytearray], Index]:
    def change(index: Index, content: bytearray) -> Index:
        lengths, offsets, _ = index
        chosen = list(numbers)
        return lengths[chosen], offsets[chosen], np.arange(len(chosen) + 1)

    return change


def with_bytes(before: int, after: int) -> Callable[[Index, bytearray], Index]:
    def change(index: Index, content: bytearray) -> Index:
        content[:] = bytes(before) + content + bytes(after)
        return index[0], index[1] + before, index[2]

    return change


def with_offset_of_an_empty_one(offset: int) -> Callable[[Index, bytearray], Index]:
    def change(index: Index, content: bytearray) -> Index:
        index[1][1] = offset
        return index

    return change


APART = {
    "the first dropped": keep(2, 3, 4),
    "one between dropped": keep(0, 1, 3, 4),
    "the last dropped": keep(0, 1, 2, 3),
    "shuffled": keep(3, 0, 4, 1, 2),
    "the middle ones swapped": keep(0, 3, 1, 2, 4),
    "twice": keep(0, 1, 2, 2, 3, 4),
    "none left": keep(),
    "bytes after": with_bytes(0, 4),
    "a byte after": with_bytes(0, 1),
    "bytes before": with_bytes(8, 0),
    "an empty sequence elsewhere": with_offset_of_an_empty_one(0),
}


@pytest.mark.mcore
@pytest.mark.parametrize("name", APART)
def test_sequences_that_lie_apart_are_named_and_merge_lays_them_end_to_end(
    tmp_path: Path, name: str
) -> None:
    theirs = rewrite(tmp_path / "s", APART[name])
    expected = [theirs[n].tolist() for n in range(len(theirs))]
    with pytest.raises(DataError, match=r"Megatron reads such a shard by its offsets.*merge"):
        IndexedShard(tmp_path / "s").check_index()
    merge_shards([tmp_path / "s"], output_prefix=tmp_path / "m")
    merged = IndexedShard(tmp_path / "m")
    merged.check_index()
    assert read_all(merged) == expected
    both = merge_shards([tmp_path / "s", tmp_path / "m"], output_prefix=tmp_path / "b")
    assert read_all(IndexedShard(tmp_path / "b")) == expected * 2
    assert both.files.tokens == 2 * merged.num_tokens


def with_bounds(*bounds: int) -> Callable[[Index, bytearray], Index]:
    return lambda index, content: (index[0], index[1], np.array(bounds))


@pytest.mark.mcore
@pytest.mark.parametrize("bounds", [(0, 5), (0, 0, 3, 3, 5), (0, 1, 1, 1, 5, 5)])
def test_documents_of_any_number_of_sequences_are_read(
    tmp_path: Path, bounds: tuple[int, ...]
) -> None:
    theirs = rewrite(tmp_path / "s", with_bounds(*bounds))
    shard = IndexedShard(tmp_path / "s")
    shard.check_index()
    indices = theirs.document_indices.tolist()
    expected = [
        [id_ for n in range(a, b) for id_ in theirs[n].tolist()] for a, b in pairwise(indices)
    ]
    assert read_all(shard) == expected
    merge_shards([tmp_path / "s"], output_prefix=tmp_path / "m")
    assert (tmp_path / "m.idx").read_bytes() == (tmp_path / "s.idx").read_bytes()


@pytest.mark.mcore
@pytest.mark.parametrize("offset", [2, -4, 40, 2**62])
def test_an_index_that_points_outside_is_broken_and_nothing_is_merged(
    tmp_path: Path, offset: int
) -> None:
    def change(index: Index, content: bytearray) -> Index:
        index[1][3] = offset
        return index

    rewrite(tmp_path / "s", change)
    with pytest.raises(DataError, match="contradict each other; the files are cut short"):
        IndexedShard(tmp_path / "s").check_index()
    with pytest.raises(DataError, match="contradict each other; the files are cut short"):
        merge_shards([tmp_path / "s"], output_prefix=tmp_path / "m")
    assert not list(tmp_path.glob("m*"))
