# SPDX-License-Identifier: Apache-2.0
"""The files of a native checkpoint that holds weights alone, planned to the byte before any is
written: what a run of any layout loads, in megatron-core's torch_dist format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from megacpt.checkpoint.manifest import CheckpointManifest, FileSum
from megacpt.checkpoint.verify import sums_of
from megacpt.convert.native.archive import archive_of
from megacpt.convert.native.layout import NativeTensor, native_tensors
from megacpt.convert.sources import SourceModel
from megacpt.convert.stream import OutputFile, Piece
from megacpt.families import has_equal_layers
from megacpt.families.architecture import Architecture

BLOCK_BYTES = 2**26
"""Of one entry of the checkpoint; a rank that loads reads whole ones."""
FILE_BYTES = 2**28
COMMON, FORMAT = "common.pt", "metadata.json"
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePlan:
    """All that a weights-only checkpoint consists of."""

    architecture: Architecture
    files: Sequence[OutputFile]
    metadata: Metadata
    results: Sequence[WriteResult]
    """Where each block lies."""

    def complete(self, folder: Path, *, sums: Mapping[str, FileSum]) -> None:
        """Write the index and, last, the manifest without which there is no checkpoint."""
        FileSystemWriter(folder).finish(self.metadata, [list(self.results)])
        torch.save({}, folder / COMMON)
        (folder / FORMAT).write_text(json.dumps(_FORMAT))
        others = sums_of(folder, names=[".metadata", COMMON, FORMAT])
        manifest = CheckpointManifest(
            step=0,
            start=0,
            architecture=json.loads(json.dumps(asdict(self.architecture))),
            layout=dict.fromkeys(("tp", "cp", "pp", "vpp", "dp", "ep", "etp"), 1),
            data={},
            tokens_per_source={},
            elapsed_s=0.0,
            base_heldout=None,
            heldout=None,
            faults={"updates": 0},
            files=dict(sorted({**sums, **others}.items())),
        )
        manifest.write(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Rows of one weight, an entry of the checkpoint."""

    tensor: NativeTensor
    dtype: torch.dtype
    first: int
    count: int

    @property
    def saved_shape(self) -> tuple[int, ...]:
        return (*(1 for _ in self.tensor.leading), self.count, *self.tensor.shape[1:])

    @property
    def offsets(self) -> torch.Size:
        return torch.Size((*self.tensor.index, self.first, *(0 for _ in self.tensor.shape[1:])))

    @property
    def bytes(self) -> int:
        return archive_of(self.saved_shape, dtype=self.dtype).bytes


def planned(source: SourceModel, *, dtype: torch.dtype | None) -> NativePlan:
    """``dtype``: of all weights; None: each keeps its own."""
    stacked = has_equal_layers(source.architecture)
    tensors = list(native_tensors(source.architecture, stacked=stacked))
    dtypes = _dtypes(tensors, source=source, dtype=dtype)
    blocks = [block for t in tensors for block in _blocks(t, dtype=dtypes[t.key])]
    files: list[OutputFile] = []
    results: list[WriteResult] = []
    for number, group in enumerate(_groups(blocks)):
        name = f"__0_{number}.distcp"
        files.append(_file(group, name=name, source=source))
        results += _results(group, name=name)
    return NativePlan(
        architecture=source.architecture, files=files, metadata=_metadata(blocks), results=results
    )


def _dtypes(
    tensors: Sequence[NativeTensor], *, source: SourceModel, dtype: torch.dtype | None
) -> dict[str, torch.dtype]:
    """A saved tensor has one type, wide enough for all that is packed into it."""
    found: dict[str, torch.dtype] = {}
    for tensor in tensors:
        for name in tensor.names:
            own = torch.float32 if tensor.frozen else dtype or source.tensors[name].dtype
            found[tensor.key] = torch.promote_types(found.get(tensor.key, own), own)
    return found


def _blocks(tensor: NativeTensor, *, dtype: torch.dtype) -> Iterator[_Block]:
    rows = tensor.shape[0]
    step = max(1, BLOCK_BYTES // (math.prod(tensor.shape[1:]) * dtype.itemsize))
    for first in range(0, rows, step):
        yield _Block(tensor=tensor, dtype=dtype, first=first, count=min(step, rows - first))


def _groups(blocks: Sequence[_Block]) -> Iterator[list[_Block]]:
    """Those of one file."""
    group: list[_Block] = []
    held = 0
    for block in blocks:
        if group and held + block.bytes > FILE_BYTES:
            yield group
            group, held = [], 0
        group.append(block)
        held += block.bytes
    yield group


def _file(blocks: Sequence[_Block], *, name: str, source: SourceModel) -> OutputFile:
    pieces: list[Piece] = []
    at = 0
    for block in blocks:
        archive = archive_of(block.saved_shape, dtype=block.dtype)
        piece = Piece(
            at=at,
            shape=(block.count, *block.tensor.shape[1:]),
            dtype=block.dtype,
            fill=partial(_fill, block=block, source=source),
            head=archive.head,
            tail=archive.tail,
        )
        pieces.append(piece)
        at += piece.bytes
    return OutputFile(name=name, pieces=pieces, summed=True)


def _fill(out: torch.Tensor, *, first: int, block: _Block, source: SourceModel) -> None:
    """Rows of a block from ``first`` on, each from where its run has it."""
    tensor, first = block.tensor, block.first + first
    for run in tensor.runs:
        start, end = max(run.native, first), min(run.native + run.count, first + len(out))
        if start < end:
            stored = source.tensors[tensor.names[run.source]]
            stored.read(out[start - first : end - first], first=run.hf + start - run.native)


def _results(blocks: Sequence[_Block], *, name: str) -> Iterator[WriteResult]:
    at = 0
    for block in blocks:
        yield WriteResult(
            index=MetadataIndex(block.tensor.key, block.offsets),
            size_in_bytes=block.bytes,
            storage_data=_StorageInfo(relative_path=name, offset=at, length=block.bytes),
        )
        at += block.bytes


def _metadata(blocks: Sequence[_Block]) -> Metadata:
    stored: dict[str, TensorStorageMetadata] = {}
    for block in blocks:
        kind = stored.setdefault(
            block.tensor.key,
            TensorStorageMetadata(
                properties=TensorProperties(dtype=block.dtype),
                size=torch.Size(block.tensor.saved_shape),
                chunks=[],
            ),
        )
        chunk = ChunkStorageMetadata(offsets=block.offsets, sizes=torch.Size(block.saved_shape))
        kind.chunks.append(chunk)
    return Metadata(state_dict_metadata=dict(stored))
