# SPDX-License-Identifier: Apache-2.0
"""Tensors are where torch.save has put them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import get_crc32_options, set_crc32_options

from megacpt.checkpoint.stored.torch_file import StoredTensor, read_torch_file
from megacpt.errors import CheckpointError

TENSORS = {
    "matrix": torch.arange(35.0).reshape(7, 5),
    "narrow": torch.arange(12).reshape(3, 4).bfloat16(),
    "transposed": torch.arange(24.0).reshape(4, 6).t(),
    "part": torch.arange(40, dtype=torch.float64).reshape(10, 4)[3:7],
    "parameter": torch.nn.Parameter(torch.ones(3, dtype=torch.float16)),
    "newer type": torch.arange(4).to(torch.float8_e4m3fn),
    "number": torch.tensor(3),
    "none": torch.empty(0, 3),
}


def read(tensor: StoredTensor, where: tuple[slice, ...]) -> torch.Tensor:
    out = torch.empty([w.stop - w.start for w in where], dtype=tensor.dtype)
    tensor.copy_to(out, where=where)
    return out


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def saved(folder: Path, value: Any = TENSORS) -> Path:
    torch.save(value, folder / "states.pt")
    return folder / "states.pt"


@pytest.mark.parametrize("name", TENSORS)
def test_values(tmp_path: Path, name: str) -> None:
    stored, tensor = read_torch_file(saved(tmp_path))[name], TENSORS[name].detach()
    assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
    for where in (
        tuple(slice(0, size) for size in tensor.shape),
        tuple(slice(size // 3, size - size // 4) for size in tensor.shape),
    ):
        found = read(stored, where)
        assert torch.equal(bits(found), bits(tensor[where]))


def test_sums_that_were_left_out_are_not_missed(tmp_path: Path) -> None:
    """As in checkpoints whose writers say so, megacpt's own among them."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        path = saved(tmp_path)
    finally:
        set_crc32_options(before)
    found = read_torch_file(path)["matrix"]
    assert torch.equal(read(found, (slice(0, 7), slice(0, 5))), TENSORS["matrix"])


def test_a_file_within_a_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(b"before" + content + b"behind")
    found = read_torch_file(path, start=6, length=len(content))["matrix"]
    assert torch.equal(read(found, (slice(2, 4), slice(0, 5))), TENSORS["matrix"][2:4])


def test_another_shape(tmp_path: Path) -> None:
    stored = read_torch_file(saved(tmp_path))
    flat = stored["matrix"].viewed((35,))
    assert torch.equal(read(flat, (slice(4, 9),)), torch.arange(4.0, 9.0))
    with pytest.raises(CheckpointError, match=r"strides \[1, 6\].* save it contiguous"):
        stored["transposed"].viewed((24,))


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"states\.pt is not whole"):
        read_torch_file(path)
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"not of torch\.save's format of today"):
        read_torch_file(path)
