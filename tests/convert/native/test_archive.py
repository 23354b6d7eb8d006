# SPDX-License-Identifier: Apache-2.0
"""torch reads what was put together, and is read wherever it put the values."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch.serialization import get_crc32_options, set_crc32_options

from megacpt.convert.native.archive import archive_of, values_at
from megacpt.convert.sources import bytes_of, read_exactly
from megacpt.errors import CheckpointError, ModelError

VALUES = torch.arange(30, dtype=torch.bfloat16).view(1, 5, 6)


def test_torch_loads_it() -> None:
    archive = archive_of((1, 5, 6), dtype=torch.bfloat16)
    whole = archive.head + bytes(bytes_of(VALUES)) + archive.tail
    assert len(whole) == archive.bytes
    assert torch.equal(torch.load(io.BytesIO(whole), weights_only=True), VALUES)


def test_a_huge_one_takes_no_memory() -> None:
    archive = archive_of((1, 5 * 2**14, 2**14), dtype=torch.float32)
    assert archive.value_bytes == 5 * 2**30
    assert len(archive.head) + len(archive.tail) < 4096


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("tensor", [VALUES, VALUES[:, 2:], torch.arange(7.0)])
def test_values_are_found(summed: bool, tensor: torch.Tensor, tmp_path: Path) -> None:
    """Of a view torch writes all that it looks into."""
    before = get_crc32_options()
    set_crc32_options(summed)
    content = io.BytesIO(b"before")
    content.seek(6)
    try:
        torch.save(tensor, content)
    finally:
        set_crc32_options(before)
    path = tmp_path / "file"
    path.write_bytes(content.getvalue())
    length = len(content.getvalue()) - 6
    shape = tuple(tensor.shape)
    at = values_at(path, at=6, length=length, shape=shape, dtype=tensor.dtype)
    found = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    read_exactly(bytes_of(found), file=path, at=at, what="it")
    assert torch.equal(found, tensor)
    with pytest.raises(CheckpointError, match=r"where \.metadata says"):
        values_at(path, at=6, length=length, shape=(9, *shape), dtype=tensor.dtype)


def test_a_file_that_ends_too_soon(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(ModelError, match="ends within weight; it has been cut short"):
        read_exactly(memoryview(bytearray(4)), file=tmp_path / "file", at=3, what="weight")
