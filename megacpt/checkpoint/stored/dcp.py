# SPDX-License-Identifier: Apache-2.0
"""The tensors of a folder in torch's distributed format, which megatron-core's torch_dist is too.

``.metadata`` says of which blocks each tensor consists and where in which file each block lies.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from megacpt.checkpoint.stored.pickles import Known, read_pickle, type_name
from megacpt.checkpoint.stored.torch_file import StoredTensor, Where, read_torch_file
from megacpt.errors import CheckpointError

METADATA = ".metadata"
Offsets = tuple[int, ...]
_KNOWN = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        *(torch_metadata.Metadata, torch_metadata.MetadataIndex, torch_metadata.StorageMeta),
        *(torch_metadata.TensorStorageMetadata, torch_metadata.BytesStorageMetadata),
        *(torch_metadata.ChunkStorageMetadata, torch_metadata.TensorProperties),
        *(torch_metadata._MEM_FORMAT_ENCODING, filesystem._StorageInfo),
    )
}
"""All that is needed of the index; it may hold other objects of those who wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a tensor that lies in one piece."""

    offsets: Offsets
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DcpTensor:
    """A tensor as the index states it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]

    def blocks_at(self, where: Where) -> Iterator[Block]:
        """Those that may hold some of that part: of a tensor of all layers and experts, which
        thousands of blocks make up, the few of one expert."""
        depth, at = self._by_index
        for index in product(*(range(w.start, w.stop) for w in where[:depth])):
            yield from at.get(index, ())

    @cached_property
    def _by_index(self) -> tuple[int, dict[Offsets, list[Block]]]:
        """How many leading dimensions no block has more than one entry of, and the blocks at each
        entry."""
        thick = (
            dim for dim in range(len(self.shape)) if any(b.shape[dim] > 1 for b in self.blocks)
        )
        depth = next(thick, 0)
        at = defaultdict(list)
        for block in self.blocks:
            at[block.offsets[:depth]].append(block)
        return depth, at


@dataclass(frozen=True, slots=True, kw_only=True)
class DcpFolder:
    """A folder's tensors; of the files nothing is read before a value is asked for."""

    folder: Path
    tensors: Mapping[str, DcpTensor]
    others: frozenset[str]
    """Names of what is no tensor."""
    _places: Mapping[tuple[str, Offsets], Any]
    _found: dict[tuple[str, Offsets], StoredTensor] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    """Of files, in bytes, -1 where there is none: asked for once, as a file holds many blocks."""

    @classmethod
    def open(cls, folder: Path) -> DcpFolder:
        index = read_index(folder)
        entries = index.state_dict_metadata
        tensors = {
            str(name): _tensor(entry)
            for name, entry in entries.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        return cls(
            folder=folder,
            tensors=tensors,
            others=frozenset(map(str, entries.keys() - tensors.keys())),
            _places={
                (place.fqn, tuple(place.offset or ())): info
                for place, info in index.storage_data.items()
                if isinstance(place, MetadataIndex)
            },
        )

    def require_files(self, names: Iterable[str]) -> None:
        """Refuse a folder that lacks a file, or the end of one, that holds some of ``names``."""
        for name in names:
            for block in self.tensors[name].blocks:
                self._require_file(name, block=block)

    def _require_file(self, name: str, *, block: Block) -> None:
        info = self._place(name, block=block)
        file, end = self.folder / info.relative_path, info.offset + info.length
        if info.relative_path not in self._sizes:
            self._sizes[info.relative_path] = file.stat().st_size if file.is_file() else -1
        size = self._sizes[info.relative_path]
        if size < end:
            what = "is missing" if size < 0 else f"ends after {size} bytes"
            raise CheckpointError(
                f"{file} {what}, which holds {name} (rows from {list(block.offsets)}, bytes "
                f"{info.offset} to {end}); copy the whole folder again."
            )

    def copy_to(self, out: torch.Tensor, *, name: str, where: Where) -> None:
        """Fill ``out`` with that part of a tensor, from all blocks that hold some of it."""
        filled = 0
        for block in self.tensors[name].blocks_at(where):
            common = [
                slice(max(w.start, offset), min(w.stop, offset + size))
                for w, offset, size in zip(where, block.offsets, block.shape, strict=True)
            ]
            if any(c.start >= c.stop for c in common):
                continue
            inside = tuple(_moved(c, by=-o) for c, o in zip(common, block.offsets, strict=True))
            target = out[tuple(_moved(c, by=-w.start) for c, w in zip(common, where, strict=True))]
            self._stored(name, block=block).copy_to(target, where=inside)
            filled += target.numel()
        if filled != out.numel():
            raise CheckpointError(
                f"{self.folder} holds {filled} of {out.numel()} values of {name} that {METADATA} "
                f"states (shape {list(self.tensors[name].shape)}); copy the whole folder again."
            )

    def read_object(self, name: str, *, known: Known) -> Any:
        """What is no tensor, as ``read_torch_file`` reads it."""
        whole = Block(offsets=(), shape=())
        self._require_file(name, block=whole)
        info = self._place(name, block=whole)
        path = self.folder / info.relative_path
        return read_torch_file(path, start=info.offset, length=info.length, known=known)

    def _place(self, name: str, *, block: Block) -> Any:
        info = self._places.get((name, block.offsets))
        if info is None:
            raise CheckpointError(
                f"{self.folder / METADATA} says of {name} that a block begins at "
                f"{list(block.offsets)}, but not where it lies; copy the folder again."
            )
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(
                f"{self.folder / METADATA} places {name} in {info.relative_path}, outside of its "
                "folder; use a checkpoint whose files lie together."
            )
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(
                f"{self.folder} holds {name} transformed ({', '.join(info.transform_descriptors)})"
                "; save it without stream extensions."
            )
        return info

    def _stored(self, name: str, *, block: Block) -> StoredTensor:
        key = (name, block.offsets)
        if key not in self._found:
            info = self._place(name, block=block)
            path = self.folder / info.relative_path
            found = read_torch_file(path, start=info.offset, length=info.length)
            self._found[key] = self._require_fit(found, name=name, block=block)
        return self._found[key]

    def _require_fit(self, found: object, *, name: str, block: Block) -> StoredTensor:
        dtype = self.tensors[name].dtype
        if isinstance(found, StoredTensor):
            if math.prod(found.shape) == math.prod(block.shape) and found.dtype == dtype:
                return found.viewed(block.shape)
            what = f"a tensor of shape {list(found.shape)} in {found.dtype}"
        else:
            what = type_name(found)
        raise CheckpointError(
            f"{name} in {self.folder} must be {list(block.shape)} in {dtype} at "
            f"{list(block.offsets)}, but is {what}; save the checkpoint with plain weights."
        )


def read_index(folder: Path) -> Metadata:
    """As torch's FileSystemReader reads it, but that nothing it names is imported or called."""
    path = folder / METADATA
    try:
        with path.open("rb") as stream:
            index = read_pickle(stream, path=path, known=_KNOWN)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}), without which the files beside it have no "
            "names; copy the whole folder again."
        ) from error
    if not isinstance(index, Metadata):
        raise CheckpointError(
            f"{path} must be an index of torch.distributed.checkpoint, but is "
            f"{type_name(index)}; save the checkpoint with torch's file system writer."
        )
    return index


def _tensor(entry: TensorStorageMetadata) -> DcpTensor:
    return DcpTensor(
        dtype=entry.properties.dtype,
        shape=tuple(entry.size),
        blocks=tuple(
            Block(offsets=tuple(chunk.offsets), shape=tuple(chunk.sizes)) for chunk in entry.chunks
        ),
    )


def _moved(bounds: slice, *, by: int) -> slice:
    return slice(bounds.start + by, bounds.stop + by)
