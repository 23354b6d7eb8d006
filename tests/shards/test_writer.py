# SPDX-License-Identifier: Apache-2.0
"""A shard is published whole or not at all."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from megacpt.errors import DataError, EnvironmentError_
from megacpt.shards.format import choose_dtype
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.shards.writer import AT_ONCE, ShardWriter

UINT16 = choose_dtype(100)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The system refuses longer files, as a full disk does: in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_documents", [1, 30_000])
def test_a_full_disk_leaves_the_old_shard_and_nothing_else(
    tmp_path: Path, num_documents: int
) -> None:
    """One long document fails while it is added, many short ones when the index is made."""
    write_shard(tmp_path / "shard", documents=[[1, 2]], vocab_size=100)
    length = 60_000 // num_documents
    texts = [[0] * length] * num_documents * (2 if num_documents == 1 else 1)
    message = r"shard cannot be written: .*nothing was left"
    with largest_file(130_000), pytest.raises(EnvironmentError_, match=message):
        write_shard(tmp_path / "shard", documents=texts, vocab_size=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard.bin", "shard.idx"]
    assert IndexedShard(tmp_path / "shard").num_tokens == 2


def test_a_mask_that_does_not_fit_on_the_disk_is_no_other_failure(tmp_path: Path) -> None:
    message = r"shard cannot be written: .*nothing was left"
    with (
        largest_file(130_000),
        pytest.raises(EnvironmentError_, match=message),
        ShardWriter(tmp_path / "shard", dtype=UINT16) as writer,
    ):
        writer.add_mask(np.zeros(200_000, dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard", dtype=UINT16) as writer:
        writer.add(np.array([1, 2]))
        writer.add_mask(np.array([0, 1], dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentError_, match=r"token shard .* cannot be written"),
        ShardWriter(tmp_path / "file" / "shard", dtype=UINT16),
    ):
        pass


def test_the_second_file_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "shard.bin.partial").mkdir()
    with (
        pytest.raises(EnvironmentError_, match="Is a directory"),
        ShardWriter(tmp_path / "shard", dtype=UINT16),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["shard.bin.partial"]


def test_the_description_is_published_with_the_tokens(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard", dtype=UINT16) as writer:
        writer.add(np.array([1, 2]))
        files = writer.publish(describe=lambda files: f"{files.tokens} tokens")
    assert (tmp_path / "shard.json").read_text() == "2 tokens"
    assert (files.documents, files.tokens, files.bin_bytes) == (1, 2, 4)
    assert files.idx_bytes == (tmp_path / "shard.idx").stat().st_size


@pytest.mark.parametrize("wrong", [-1, 65_536])
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, wrong: int) -> None:
    with (
        pytest.raises(DataError, match=r"do not fit uint16 \(0..65535\)"),
        ShardWriter(tmp_path / "shard", dtype=UINT16) as writer,
    ):
        writer.add(np.array([1, wrong]))


def test_lengths_must_add_up(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="lengths add up to 3, but there are 2 ids"),
        ShardWriter(tmp_path / "shard", dtype=UINT16) as writer,
    ):
        writer.add_many(np.array([1, 2]), lengths=np.array([3]))


def test_an_index_longer_than_is_kept_in_memory(tmp_path: Path) -> None:
    count = AT_ONCE + 3
    lengths = np.arange(count) % 2
    with ShardWriter(tmp_path / "shard", dtype=UINT16) as writer:
        writer.add_many(np.zeros(int(lengths.sum()), dtype=np.int32), lengths=lengths)
        writer.publish()
    shard = IndexedShard(tmp_path / "shard")
    shard.check_index()
    np.testing.assert_array_equal(shard.lengths, lengths)
