# SPDX-License-Identifier: Apache-2.0
"""Token shards: the same bytes as Megatron's, read both ways; no broken file passes for good."""

from __future__ import annotations

import importlib
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.errors import DataError
from megacpt.shards.format import HEADER, choose_dtype
from megacpt.shards.reader import IndexedShard, write_shard

Documents = list[list[int]]
documents = st.lists(st.lists(st.integers(0, 60_000), max_size=30), max_size=20)
reuse_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def megatron() -> Any:
    """megatron-core's own reader and writer of the format."""
    from megacpt.device.cpu import import_hook

    import_hook.install()
    return importlib.import_module("megatron.core.datasets.indexed_dataset")


def write_with_megatron(prefix: Path, texts: Documents, *, vocab_size: int) -> None:
    import torch

    oracle = megatron()
    dtype = oracle.DType.optimal_dtype(vocab_size)
    builder = oracle.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in texts:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.mcore
@pytest.mark.parametrize("vocab_size", [257, 65_499, 65_500, 128_000])
def test_bytes_equal_megatron_s_and_both_read_both(tmp_path: Path, vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    texts = [rng.integers(0, vocab_size, size=n).tolist() for n in (3, 1, 50, 7)]
    write_shard(tmp_path / "ours", documents=texts, vocab_size=vocab_size)
    write_with_megatron(tmp_path / "theirs", texts, vocab_size=vocab_size)
    for kind in ("bin", "idx"):
        ours, theirs = (tmp_path / f"{name}.{kind}" for name in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()
    theirs_read = megatron().IndexedDataset(str(tmp_path / "ours"))
    ours_read = IndexedShard(tmp_path / "theirs")
    for n, document in enumerate(texts):
        assert theirs_read[n].tolist() == ours_read.document(n).tolist() == document


@pytest.mark.mcore
def test_megatron_s_documents_of_several_sequences_are_read(tmp_path: Path) -> None:
    import torch

    oracle = megatron()
    builder = oracle.IndexedDatasetBuilder(str(tmp_path / "split.bin"), dtype=np.uint16)
    builder.add_document(torch.arange(10), [4, 6])
    builder.add_document(torch.arange(3), [3])
    builder.finalize(str(tmp_path / "split.idx"))
    shard = IndexedShard(tmp_path / "split")
    assert shard.num_documents == 2
    assert shard.lengths.tolist() == [10, 3]
    assert shard.document(0).tolist() == list(range(10))
    assert shard.sequence_lengths.tolist() == [4, 6, 3]
    assert shard.document_bounds.tolist() == [0, 2, 3]
    assert shard.starts(0, stop=2).tolist() == [0, 10, 13]


@given(texts=documents)
@reuse_folder
def test_what_is_written_is_read(tmp_path: Path, texts: Documents) -> None:
    shard = write_shard(tmp_path / "shard", documents=texts, vocab_size=60_001)
    shard.check_index()
    assert shard.num_documents == len(texts)
    assert shard.lengths.tolist() == [len(document) for document in texts]
    assert [shard.document(n).tolist() for n in range(len(texts))] == texts
    assert shard.span(0, stop=shard.num_tokens).tolist() == list(chain.from_iterable(texts))
    ends = np.cumsum(shard.lengths).tolist()
    for first in range(len(texts) + 1):
        assert shard.starts(first, stop=len(texts)).tolist() == [0, *ends][first:]


@pytest.mark.parametrize(("vocab_size", "name"), [(65_499, "uint16"), (65_500, "int32")])
def test_the_type_is_megatron_s_choice(vocab_size: int, name: str) -> None:
    assert choose_dtype(vocab_size).name == name


@pytest.mark.parametrize("number", [-1, 1])
def test_a_document_that_is_not_there(tmp_path: Path, number: int) -> None:
    shard = write_shard(tmp_path / "shard", documents=[[1]], vocab_size=9)
    with pytest.raises(IndexError, match=f"document {number} of 1"):
        shard.document(number)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 4), (2, 1)])
def test_a_span_outside_is_refused(tmp_path: Path, start: int, stop: int) -> None:
    shard = write_shard(tmp_path / "shard", documents=[[1, 2, 3]], vocab_size=9)
    with pytest.raises(DataError, match=rf"span {start}..{stop} is not within its 3 tokens"):
        shard.span(start, stop=stop)


def test_an_id_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", documents=[[1, 2, 9, 3]], vocab_size=10)
    assert IndexedShard(tmp_path / "shard", vocab_size=10).ids(0, stop=4).tolist() == [1, 2, 9, 3]
    with pytest.raises(DataError, match=r"holds id 9 at token 2, but ids must be in 0\.\.8;"):
        IndexedShard(tmp_path / "shard", vocab_size=9).ids(1, stop=4)


def test_a_negative_id_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", documents=[[1, 2]], vocab_size=100_000)
    (tmp_path / "shard.bin").write_bytes(np.array([1, -2], dtype="<i4").tobytes())
    with pytest.raises(DataError, match="holds id -2 at token 1"):
        IndexedShard(tmp_path / "shard").ids(0, stop=2)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"token shard .*/gone does not exist: .*gone.idx; give"):
        IndexedShard(tmp_path / "gone")


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.idx").mkdir()
    with pytest.raises(DataError, match=r"odd.idx cannot be read: Is a directory"):
        IndexedShard(tmp_path / "odd")


def broken_shard(tmp_path: Path, *, kind: str, change: Any) -> Path:
    prefix = tmp_path / "shard"
    write_shard(prefix, documents=[[1, 2, 3], [4], [5, 6]], vocab_size=9)
    path = Path(f"{prefix}.{kind}")
    path.write_bytes(bytes(change(bytearray(path.read_bytes()))))
    return prefix


def put(at: int, value: bytes) -> Any:
    def change(content: bytearray) -> bytearray:
        content[at : at + len(value)] = value
        return content

    return change


BROKEN = {
    "no header": ("idx", lambda c: c[:20], "has 20 bytes, fewer than its header of 34"),
    "empty": ("idx", lambda c: c[:0], "has 0 bytes, fewer"),
    "magic": ("idx", put(0, b"X"), "does not begin as a Megatron index of version 1 does"),
    "version": ("idx", put(9, b"\x02"), "does not begin as a Megatron index of version 1 does"),
    "type": ("idx", put(17, b"\x0b"), r"has type code 11, token ids have one of 1 \(uint8\), 2"),
    "other type": ("idx", put(17, b"\x04"), "which has 12"),
    "huge": ("idx", put(25, b"\xff" * 8), "document bounds take 22107269850836290"),
    "cut": ("idx", lambda c: c[:-1], "has 101 bytes, but 3 sequences and 4 document bounds take"),
    "bounds": ("idx", put(HEADER.size + 36 + 24, b"\x02"), "do not cover its sequences"),
    "length": ("idx", put(HEADER.size + 8, b"\x09"), "which has 12"),
    "short": ("bin", lambda c: c[:-2], "which has 10"),
    "odd": ("bin", lambda c: c[:-1], "which has 11"),
    "long": ("bin", lambda c: c + b"\0\0", "which has 14"),
    "gone": ("bin", lambda c: c[:0], "which has 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    kind, change, message = BROKEN[name]
    with pytest.raises(DataError, match=message):
        IndexedShard(broken_shard(tmp_path, kind=kind, change=change))


@pytest.mark.parametrize(
    ("at", "message"),
    [(0, "lengths and offsets that contradict"), (12 + 8, "contradict"), (44, "go backwards")],
)
def test_the_whole_index_can_be_checked(tmp_path: Path, at: int, message: str) -> None:
    prefix = broken_shard(tmp_path, kind="idx", change=put(HEADER.size + at, b"\x07"))
    with pytest.raises(DataError, match=message):
        IndexedShard(prefix).check_index()


@given(data=st.data())
@reuse_folder
def test_a_flipped_byte_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    """Opening, checking and reading either work or raise DataError, wherever the byte is."""
    at = data.draw(st.integers(0, HEADER.size + 36 + 32 - 1))
    value = data.draw(st.integers(0, 255))
    prefix = broken_shard(tmp_path, kind="idx", change=put(at, bytes([value])))
    try:
        shard = IndexedShard(prefix)
        everything: npt.NDArray[Any] = shard.span(0, stop=shard.num_tokens)
    except DataError:
        return
    assert everything.tolist() == [1, 2, 3, 4, 5, 6]
    try:
        read = [shard.document(n).tolist() for n in range(shard.num_documents)]
        shard.check_index()
    except DataError:
        return
    assert [n for part in read for n in part] == [1, 2, 3, 4, 5, 6], (
        "a document's end may move, a token may not"
    )
