# SPDX-License-Identifier: Apache-2.0
"""Files with more rows, as the safetensors library reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megacpt.vocabulary import stored
from megacpt.vocabulary.stored import NewRows, write_grown


@pytest.mark.parametrize("first", [3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_only_the_named_rows_are_others(
    first: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BYTES_AT_ONCE", 5)
    draw = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(3, 2, generator=draw).to(torch.float16),
        "table": torch.randn(7, 5, generator=draw).to(dtype),
        "z": torch.randint(0, 9, (4,), generator=draw),
    }
    save_file(tensors, tmp_path / "old.safetensors", metadata={"format": "pt"})
    rows = torch.randn(2, 5, generator=draw).to(dtype)
    more = write_grown(
        tmp_path / "old.safetensors",
        target=tmp_path / "new.safetensors",
        rows={"table": NewRows(first=first, content=rows.view(torch.uint8).numpy().tobytes())},
    )
    found = load_file(tmp_path / "new.safetensors")
    expected = torch.cat([tensors["table"][:first], rows, tensors["table"][first + 2 :]])
    assert found.keys() == tensors.keys()
    for name, value in (tensors | {"table": expected}).items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8))
    assert more == (len(expected) - 7) * 5 * dtype.itemsize
    with safe_open(str(tmp_path / "new.safetensors"), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_without_rows_the_values_are_the_same(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6)}, tmp_path / "old.safetensors")
    assert write_grown(tmp_path / "old.safetensors", target=tmp_path / "new", rows={}) == 0
    assert torch.equal(load_file(tmp_path / "new")["a"], torch.arange(6))


def test_a_file_that_ends_early_is_not_copied_as_if_whole(tmp_path: Path) -> None:
    save_file({"a": torch.arange(600)}, tmp_path / "old.safetensors")
    content = (tmp_path / "old.safetensors").read_bytes()
    (tmp_path / "old.safetensors").write_bytes(content[:-8])
    with pytest.raises(EOFError, match="ends 8 bytes before its last tensor"):
        write_grown(tmp_path / "old.safetensors", target=tmp_path / "new", rows={})
