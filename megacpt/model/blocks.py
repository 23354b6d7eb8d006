# SPDX-License-Identifier: Apache-2.0
"""Where the elements of each parameter lie in the tensors of a checkpoint, whoever holds them.

megatron-core describes whole parameters: a layer's weight is one entry of a tensor of all layers,
a tensor-parallel share has an offset, gate and up of an MLP are two tensors. That description also
serves ranks which hold any successive elements of a parameter, as ZeRO deals them out: what they
save can be loaded into every other layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a parameter that are one block of a saved tensor."""

    first: int
    """Its first element, in the parameter's memory order."""
    block: ShardedTensor
    """Without data."""

    @property
    def end(self) -> int:
        return self.first + int(math.prod(self.block.local_shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A model chunk as its checkpoint has it."""

    of_params: dict[str, tuple[Rows, ...]]
    """Name of the parameter -> all its rows, in order."""
    objects: dict[str, ShardedObject]
    """Name of a module's extra state -> its place; without data."""


def blocks_of(model: Any) -> Blocks:
    """Of a chunk whose parameters are whole."""
    metadata = {
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    of_params, objects = {}, {}
    params = dict(model.named_parameters())
    for name, entry in model.sharded_state_dict(metadata=metadata).items():
        if isinstance(entry, ShardedObject):
            objects[name] = replace(entry, data=None)
        else:
            of_params[name] = rows_of_entry(entry, shape=params[name].shape)
    return Blocks(of_params=of_params, objects=objects)


def rows_of_entry(
    entry: ShardedTensor | ShardedTensorFactory, *, shape: torch.Size
) -> tuple[Rows, ...]:
    """Of one parameter, of which ``entry`` describes the whole."""
    rows = tuple(_in_order(entry))
    shapes = {tuple(part.block.local_shape[1:]) for part in rows}
    assert rows[-1].end == shape.numel(), f"{entry.key} is not saved row by row"
    assert shapes == {tuple(shape[1:])}, f"{entry.key} is not saved row by row"
    return rows


def _in_order(entry: ShardedTensor | ShardedTensorFactory) -> Iterator[Rows]:
    blocks = entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]
    first = 0
    for block in blocks:
        part = Rows(first=first, block=block.without_data())
        yield part
        first = part.end


def place_elements(
    values: torch.Tensor, *, first: int, rows: tuple[Rows, ...], prefix: str = ""
) -> list[ShardedTensor]:
    """Elements of a parameter, from its ``first`` on, as blocks of saved tensors.

    The blocks look into the flat ``values``, so a load fills them in place.
    """
    end = first + values.numel()
    blocks = []
    for part in rows:
        at = max(part.first, first)
        until = max(min(part.end, end), at)
        for offset, shape in rectangles(
            part.block.local_shape, start=at - part.first, end=until - part.first
        ):
            data = values[at - first : at - first + math.prod(shape)].view(shape)
            blocks.append(_block(data, offset=offset, part=part, prefix=prefix))
            at += data.numel()
    return blocks


def rectangles(
    shape: Sequence[int], *, start: int, end: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offset and shape of those that are the elements ``start`` to ``end`` of a tensor, in order.

    Of a matrix at most three: the rest of a row, whole rows, the beginning of a row.
    """
    row_size = math.prod(shape[1:])
    while start < end:
        row, within = divmod(start, row_size)
        rows = (end - start) // row_size if within == 0 else 0
        if rows:
            yield (row, *(0 for _ in shape[1:])), (rows, *shape[1:])
            start += rows * row_size
        else:
            part = min(end - start, row_size - within)
            for offset, inner in rectangles(shape[1:], start=within, end=within + part):
                yield (row, *offset), (1, *inner)
            start += part


def _block(
    data: torch.Tensor, *, offset: tuple[int, ...], part: Rows, prefix: str
) -> ShardedTensor:
    axis = part.block.prepend_axis_num
    own = part.block.global_offset
    data = data.view((1,) * axis + tuple(data.shape))
    return replace(
        part.block,
        key=f"{prefix}{part.block.key}",
        data=data,
        dtype=data.dtype,
        local_shape=tuple(data.shape),
        global_offset=own[:axis] + tuple(a + b for a, b in zip(own[axis:], offset, strict=True)),
        # Blocks of unequal size; torch's checkpoint format needs no grid.
        axis_fragmentations=None,
        prepend_axis_num=0,
        replica_id=(*part.block.replica_id[:-1], 0),
    )
