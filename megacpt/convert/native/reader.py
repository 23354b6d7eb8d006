# SPDX-License-Identifier: Apache-2.0
"""The weights of a native checkpoint of any layout as Hugging Face tensors, read where they lie.

No model is built and nothing is resharded: the checkpoint's index says which block of which file
holds which rows, so that a slice of a tensor is read without the rest of it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from megacpt.checkpoint import verify
from megacpt.checkpoint.manifest import CheckpointManifest, require_architecture, require_base
from megacpt.checkpoint.stored.dcp import read_index
from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.config.sections import RopeConfig
from megacpt.convert.native.archive import values_at
from megacpt.convert.native.layout import NativeTensor, Run, native_tensors
from megacpt.convert.native.proof import Proof, ProvenFile
from megacpt.convert.sources import LiesAt, SourceModel, SourceTensor, bytes_of
from megacpt.errors import CheckpointError
from megacpt.families import read_architecture
from megacpt.families.adapter import adapter_of
from megacpt.families.stored.files import has_weights, placed_by_index
from megacpt.families.stored.fingerprint import fingerprint

OPTIMIZER = "optimizer.state."
_OF_ONE_LAYER = re.compile(r"decoder\.layers\.\d")
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def native_checkpoint(folder: Path, *, described_by: Path) -> SourceModel:
    """``described_by``: the Hugging Face folder that it was trained from. Of an adapter's run: the
    factors by the names of their rows, and what was trained beside them.

    ``CheckpointError`` names the tensor that is missing, too many or of another shape.
    """
    if wrong := verify.quick(folder) or verify.full(folder, names=[".metadata"]):
        raise CheckpointError(f"{folder}: {wrong[0]}; see `megacpt checkpoints --verify`.")
    manifest = CheckpointManifest.read(folder)
    adapter = adapter_of(manifest.architecture.get("adapter"))
    described = read_architecture(described_by, rope=_rope_of_run(folder))
    architecture = replace(described, adapter=adapter)
    require_architecture(manifest, architecture=asdict(architecture), folder=folder)
    if adapter is not None and manifest.base is not None and has_weights(described_by):
        base = fingerprint(described_by)
        require_base(manifest, base=base, model=described_by, folder=folder)
    proof = Proof(folder, manifest=manifest)
    saved = _Saved(folder, metadata=read_index(folder), proof=proof)
    found = list(native_tensors(architecture, stacked=saved.is_stacked))
    saved.require_all(found)
    return SourceModel(
        folder=folder,
        described_by=described_by,
        architecture=architecture,
        tensors=dict(pair for tensor in found for pair in saved.tensors_of(tensor)),
        files=placed_by_index(described_by),
        proving=proof.proving,
    )


def _rope_of_run(checkpoint: Path) -> RopeConfig | None:
    """What the run has set in place of the base model's; of a checkpoint that lies without its run
    nothing is known."""
    run_yaml = RunFolder(checkpoint.parent.parent).run_yaml
    return read_run_yaml(run_yaml).model.rope if run_yaml.is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A rectangle of one weight."""

    file: ProvenFile
    values_at: int
    """The byte where its values begin."""
    offset: tuple[int, ...]
    """Within the weight."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def copy_rows(self, out: torch.Tensor, *, first: int, what: str) -> None:
        """Those of its rows that ``out`` has, which begins with row ``first`` of the weight."""
        start = max(self.offset[0], first)
        end = min(self.offset[0] + self.shape[0], first + len(out))
        if start >= end:
            return
        target = out[start - first : end - first]
        for dim in range(1, out.dim()):
            target = target.narrow(dim, self.offset[dim], self.shape[dim])
        whole = target.is_contiguous()
        into = target if whole else torch.empty_like(target, memory_format=torch.contiguous_format)
        at = self.values_at + (start - self.offset[0]) * self.row_bytes
        self.file.read(bytes_of(into), at=at, what=what)
        if not whole:
            target.copy_(into)


class _Saved:
    """What the index of a checkpoint tells of its weights."""

    def __init__(self, folder: Path, *, metadata: Metadata, proof: Proof) -> None:
        self._folder, self._metadata, self._proof = folder, metadata, proof
        self._stored: Mapping[str, TensorStorageMetadata] = {
            key: kind
            for key, kind in metadata.state_dict_metadata.items()
            if isinstance(kind, TensorStorageMetadata) and not key.startswith(OPTIMIZER)
        }
        self._chunks: dict[str, dict[tuple[int, ...], list[MetadataIndex]]] = {}

    @property
    def is_stacked(self) -> bool:
        """Layers are entries of one tensor, unless they differ in what they hold."""
        return not any(_OF_ONE_LAYER.match(key) for key in self._stored)

    def require_all(self, wanted: Sequence[NativeTensor]) -> None:
        for tensor in wanted:
            stored = self._stored.get(tensor.key)
            if stored is None:
                raise CheckpointError(
                    f"{self._folder} has no tensor {tensor.key}, which config.json asks for; "
                    "use the model that it was written with."
                )
            self._require_fit(tensor, stored=stored)
        if extra := sorted(self._stored.keys() - {tensor.key for tensor in wanted}):
            raise CheckpointError(
                f"{self._folder} has a tensor {extra[0]} that config.json gives no place; "
                "use the model that it was written with."
            )

    def _require_fit(self, tensor: NativeTensor, *, stored: TensorStorageMetadata) -> None:
        size, wanted = tuple(stored.size), tensor.saved_shape
        # A vocabulary filled up for tensor parallelism has more rows than the model.
        padded = not tensor.leading and size[:1] > wanted[:1] and size[1:] == wanted[1:]
        if size != wanted and not padded:
            raise CheckpointError(
                f"{tensor.key} in {self._folder} must have shape {list(wanted)}, which config.json "
                f"states, but has {list(size)}; use the model that it was written with."
            )
        if stored.properties.dtype not in FLOATING:
            raise CheckpointError(
                f"{tensor.key} in {self._folder} is of type {stored.properties.dtype}, which is no "
                "plain floating type; save the run without precision.fp8_param_gather."
            )

    def tensors_of(self, tensor: NativeTensor) -> Iterator[tuple[str, SourceTensor]]:
        """The Hugging Face tensors that are packed into it."""
        blocks = tuple(self._blocks(tensor))
        dtype = self._stored[tensor.key].properties.dtype
        for number, name in enumerate(tensor.names):
            runs = [run for run in tensor.runs if run.source == number]
            rows = sum(run.count for run in runs)
            yield (
                name,
                SourceTensor(
                    shape=(rows, *tensor.shape[1:]),
                    dtype=dtype,
                    fill=partial(_fill, runs=runs, blocks=blocks, what=tensor.key),
                    place=partial(_place, runs=runs, blocks=blocks),
                ),
            )

    def _blocks(self, tensor: NativeTensor) -> Iterator[_Block]:
        """Those of the weight; ``CheckpointError`` where they do not cover it."""
        stored, lead = self._stored[tensor.key], len(tensor.leading)
        covered = 0
        for chunk in self._at(tensor.key, lead=lead).get(tensor.index, []):
            place = self._metadata.storage_data[chunk]
            assert chunk.offset is not None
            sizes, dtype = self._sizes[chunk], stored.properties.dtype
            covered += math.prod(sizes)
            file = self._proof.file(place.relative_path)
            file.hold(tensor.names, num_bytes=math.prod(sizes) * dtype.itemsize)
            yield _Block(
                file=file,
                # Here and not by those who read: torch's settings are not one for each thread.
                values_at=values_at(
                    file.path, at=place.offset, length=place.length, shape=sizes, dtype=dtype
                ),
                offset=tuple(chunk.offset[lead:]),
                shape=sizes[lead:],
                dtype=dtype,
            )
        if covered < math.prod(stored.size[lead:]):
            raise CheckpointError(
                f"{self._folder} holds only a part of {tensor.key}{list(tensor.index)}; "
                "bring it back from a copy."
            )

    @cached_property
    def _sizes(self) -> dict[MetadataIndex, tuple[int, ...]]:
        return {
            MetadataIndex(key, chunk.offsets): tuple(chunk.sizes)
            for key, stored in self._stored.items()
            for chunk in stored.chunks
        }

    def _at(self, key: str, *, lead: int) -> dict[tuple[int, ...], list[MetadataIndex]]:
        """The blocks of a saved tensor by layer and expert."""
        if key not in self._chunks:
            found = defaultdict(list)
            for chunk in self._stored[key].chunks:
                found[tuple(chunk.offsets[:lead])].append(MetadataIndex(key, chunk.offsets))
            self._chunks[key] = dict(found)
        return self._chunks[key]


def _fill(
    out: torch.Tensor,
    *,
    first: int,
    runs: Sequence[Run],
    blocks: Sequence[_Block],
    what: str,
) -> None:
    """Rows of one Hugging Face tensor, run by run."""
    for run in runs:
        start, end = max(run.hf, first), min(run.hf + run.count, first + len(out))
        if start < end:
            rows = out[start - first : end - first]
            for block in blocks:
                block.copy_rows(rows, first=run.native + start - run.hf, what=what)


def _place(row: int, *, runs: Sequence[Run], blocks: Sequence[_Block]) -> LiesAt | None:
    """In order a file is read that is summed meanwhile."""
    run = next(run for run in runs if run.hf <= row < run.hf + run.count)
    native = run.native + row - run.hf
    block = next(b for b in blocks if b.offset[0] <= native < b.offset[0] + b.shape[0])
    if not block.file.is_for_weights:
        return None
    at = block.values_at + (native - block.offset[0]) * block.row_bytes
    return LiesAt(file=block.file.path, at=at)
