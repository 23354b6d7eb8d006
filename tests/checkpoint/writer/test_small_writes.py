# SPDX-License-Identifier: Apache-2.0
"""Files that are written a little at a time: whole, with the sum of their bytes, or refused."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megacpt.checkpoint import verify
from megacpt.checkpoint.writer import small_writes
from megacpt.checkpoint.writer.small_writes import SmallWrites

SIZES = (0, 1, 1000, 4096, 100_000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file is many pieces and some windows."""
    monkeypatch.setattr(small_writes, "WRITE_BYTES", 512)
    monkeypatch.setattr(small_writes, "WINDOW_BYTES", 10_000)


def write(path: Path, *, rest: Callable[[], None] = lambda: None) -> SmallWrites:
    """As torch.distributed.checkpoint does: an entry after the other, each by its own stream."""
    writes = SmallWrites(rest=rest)
    with path.open("wb") as file:
        for size in SIZES:
            stream, descriptors = writes.transform_save_stream(None, file)
            assert descriptors == []
            stream.write(os.urandom(size))
            stream.close()
        assert not file.closed
    return writes


def test_the_sum_is_that_of_the_file(tmp_path: Path, small: None) -> None:
    found = write(tmp_path / "file").sum
    assert found == verify.sums_of(tmp_path)["file"]
    assert found.bytes == sum(SIZES)


def test_a_rest_is_offered_after_each_piece(tmp_path: Path, small: None) -> None:
    rests: list[None] = []
    write(tmp_path / "file", rest=lambda: rests.append(None))
    assert len(rests) == sum(-(-size // 512) for size in SIZES)


def test_most_of_it_is_sent_off_before_the_end(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time all that was written until then, nothing of it left in a buffer."""
    sent: list[int] = []

    def count(descriptor: int, *_: int) -> None:
        sent.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "posix_fadvise", count)
    write(tmp_path / "file")
    steps = [after - before for before, after in zip([0, *sent], sent, strict=False)]
    assert all(10_000 <= step < 10_512 for step in steps), sent
    assert sent[-1] > sum(SIZES) - 10_512


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_said_in_the_system_s_words(small: None) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write(Path("/dev/full"))


def test_tensors_go_through_it(tmp_path: Path, small: None) -> None:
    tensor = torch.randn(100, 30)
    writes = SmallWrites(rest=lambda: None)
    with (tmp_path / "file").open("wb") as file:
        torch.save(tensor, writes.transform_save_stream(None, file)[0])
    assert writes.sum == verify.sums_of(tmp_path)["file"]
    read = torch.load(io.BytesIO((tmp_path / "file").read_bytes()), weights_only=True)
    assert torch.equal(read, tensor)
