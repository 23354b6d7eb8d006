# SPDX-License-Identifier: Apache-2.0
"""Folders that torch and megatron-core have written, read as torch reads them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

from megacpt.checkpoint.stored.dcp import METADATA, DcpFolder
from megacpt.errors import CheckpointError

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]
STACKED = torch.arange(2 * 3 * 8 * 5.0).reshape(2, 3, 8, 5)


def write(folder: Path) -> Path:
    """A tensor of layers and experts, each in two blocks; one in columns; one that is whole."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    blocks = {
        f"{n}.{e}.{half}": ShardedTensor.from_rank_offsets(
            "stacked",
            STACKED[n, e, 4 * half : 4 * half + 4].clone(),
            *((0, n, 2), (1, e, 3), (2, half, 2)),
            prepend_axis_num=2,
        )
        for n in range(2)
        for e in range(3)
        for half in range(2)
    }
    columns = {
        f"c{n}": ShardedTensor.from_rank_offsets("columns", part.clone(), (1, n, 4))
        for n, part in enumerate(STACKED[0, 0].t().chunk(4, 1))
    }
    whole = {"whole": ShardedTensor.from_rank_offsets("whole", torch.ones(3).bfloat16())}
    folder.mkdir()
    dist_checkpointing.save({**blocks, **columns, **whole, "step": 3}, str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "saved")


def read(folder: Path, name: str, where: tuple[slice, ...]) -> torch.Tensor:
    found = DcpFolder.open(folder)
    out = torch.empty([w.stop - w.start for w in where], dtype=found.tensors[name].dtype)
    found.copy_to(out, name=name, where=where)
    return out


def test_parts_of_tensors(folder: Path) -> None:
    wanted = {"stacked": STACKED, "columns": STACKED[0, 0].t(), "whole": torch.ones(3).bfloat16()}
    by_torch = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    dcp.load(by_torch, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    for name, tensor in wanted.items():
        assert torch.equal(by_torch[name], tensor)
        for where in (
            tuple(slice(0, size) for size in tensor.shape),
            tuple(slice(size // 3, size - size // 4) for size in tensor.shape),
        ):
            assert torch.equal(read(folder, name, where), tensor[where])
    DcpFolder.open(folder).require_files(wanted)


def test_few_blocks_are_looked_at(folder: Path) -> None:
    stacked = DcpFolder.open(folder).tensors["stacked"]
    where = (slice(1, 2), slice(2, 3), slice(0, 8), slice(0, 5))
    assert len(stacked.blocks) == 12
    assert [block.offsets for block in stacked.blocks_at(where)] == [(1, 2, 0, 0), (1, 2, 4, 0)]


def changed(folder: Path) -> Metadata:
    with (folder / METADATA).open("rb") as file:
        return pickle.load(file)


def write_back(folder: Path, metadata: object) -> None:
    with (folder / METADATA).open("wb") as file:
        pickle.dump(metadata, file)


def test_an_index_that_leads_elsewhere_is_refused(folder: Path) -> None:
    metadata = changed(folder)
    for info in metadata.storage_data.values():
        info.relative_path = f"../saved/{info.relative_path}"
    write_back(folder, metadata)
    with pytest.raises(CheckpointError, match=r"places .* in \.\./saved/.* outside"):
        DcpFolder.open(folder).require_files(["whole"])


def test_a_block_that_is_missing_is_told(folder: Path) -> None:
    metadata = changed(folder)
    entry = metadata.state_dict_metadata["columns"]
    entry.chunks = entry.chunks[1:]
    write_back(folder, metadata)
    with pytest.raises(CheckpointError, match=r"holds 30 of 40 values of columns"):
        read(folder, "columns", (slice(0, 5), slice(0, 8)))


def test_transformed_entries_are_refused(folder: Path) -> None:
    metadata = changed(folder)
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]
    write_back(folder, metadata)
    with pytest.raises(CheckpointError, match=r"transformed \(zstd\)"):
        DcpFolder.open(folder).require_files(["whole"])


def test_another_index_is_refused(folder: Path) -> None:
    write_back(folder, Path("elsewhere"))
    with pytest.raises(CheckpointError, match="must be an index of torch"):
        DcpFolder.open(folder)
    (folder / METADATA).unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read"):
        DcpFolder.open(folder)
