# SPDX-License-Identifier: Apache-2.0
"""How far the weights of two checkpoints of a run lie apart.

Read from the files, without a model: every layout writes the same names and shapes. Where both hold
fp32 masters these are compared, as a change below the rounding of bf16 does not show in the weight.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from megacpt.checkpoint import verify
from megacpt.checkpoint.stored.dcp import read_index
from megacpt.errors import CheckpointError

PREFIX, MASTER = "optimizer.state.", "optimizer.state.fp32_param."
Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where a block begins in its tensor, and its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChange:
    """Change of one weight, or of that weight of all layers where they are one tensor."""

    name: str
    rms: float
    """Root mean square of its elements in the first."""
    relative: float
    """L2 norm of the change, divided by that of the weight in the first."""
    largest: float
    """Largest change of an element."""


def weight_changes(first: Path, *, second: Path) -> Iterator[WeightChange]:
    """Changes between two folders, by name. ``CheckpointError`` where names differ.

    Takes the memory of one block of each; where the layouts differ, of one tensor of each.
    """
    a, b = _Tensors(first), _Tensors(second)
    if unlike := a.weights ^ b.weights:
        raise CheckpointError(
            f"{first} and {second} hold other weights: {min(unlike)} is in one of them; compare "
            "checkpoints of one model."
        )
    for name in sorted(a.weights):
        key = MASTER + name if MASTER + name in a.keys & b.keys else name
        yield _change(name, pairs=_pairs(a, b=b, key=key))


def _change(name: str, *, pairs: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> WeightChange:
    """Sums in fp64."""
    count, largest, squares, square_changes = 0, 0.0, 0.0, 0.0
    for before, after in pairs:
        change = after.float() - before.float()
        count += before.numel()
        squares += _square(before)
        square_changes += _square(change)
        largest = max(largest, float(change.abs().max()) if change.numel() else 0.0)
    return WeightChange(
        name=name,
        rms=math.sqrt(squares / max(count, 1)),
        relative=math.sqrt(square_changes / squares) if squares else math.inf,
        largest=largest,
    )


def _square(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _pairs(a: _Tensors, *, b: _Tensors, key: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    boxes = a.boxes(key)
    if boxes == b.boxes(key):
        for box in sorted(boxes):
            yield a.block(key, box=box), b.block(key, box=box)
    else:
        before, after = a.whole(key), b.whole(key)
        # What fills up a vocabulary for tensor parallelism belongs to the layout.
        rows = min(len(before), len(after))
        yield before[:rows], after[:rows]


class _Tensors:
    """Tensors of one checkpoint, in torch's distributed format."""

    def __init__(self, folder: Path) -> None:
        if wrong := verify.quick(folder) or verify.full(folder, names=[".metadata"]):
            raise CheckpointError(f"{folder}: {wrong[0]}; see `megacpt checkpoints --verify`.")
        self._folder = folder
        self._metadata = read_index(folder)

        self.keys = {
            key
            for key, kind in self._metadata.state_dict_metadata.items()
            if isinstance(kind, TensorStorageMetadata)
        }
        self.weights = {key for key in self.keys if not key.startswith(PREFIX)}

    def boxes(self, key: str) -> set[Box]:
        return {(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in self._stored(key).chunks}

    def block(self, key: str, *, box: Box) -> torch.Tensor:
        place = self._metadata.storage_data[MetadataIndex(key, torch.Size(box[0]))]
        with (self._folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            content = io.BytesIO(file.read(place.length))
        tensor: torch.Tensor = torch.load(content, map_location="cpu", weights_only=True)
        return tensor.view(box[1])

    def whole(self, key: str) -> torch.Tensor:
        stored = self._stored(key)
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        for offsets, sizes in self.boxes(key):
            place = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
            tensor[place] = self.block(key, box=(offsets, sizes))
        return tensor

    def _stored(self, key: str) -> TensorStorageMetadata:
        kind = self._metadata.state_dict_metadata[key]
        assert isinstance(kind, TensorStorageMetadata)
        return kind
