# SPDX-License-Identifier: Apache-2.0
"""Where the rows of each parameter lie in the tensors of a checkpoint, whoever holds those rows.

megatron-core describes whole parameters: a layer's weight is one entry of a tensor of all layers,
a tensor-parallel share has an offset, gate and up of an MLP are two tensors. Noted down while the
parameters are still whole, that description also serves ranks which hold any range of their rows:
what they save can be loaded into every other layout.
"""

from __future__ import annotations

from collections.abc import Iterator
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
class Piece:
    """Rows of a parameter that are one block of a saved tensor."""

    first_row: int
    block: ShardedTensor
    """Without data."""

    @property
    def end_row(self) -> int:
        return self.first_row + int(self.block.local_shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A model chunk as its checkpoint has it."""

    of_params: dict[str, tuple[Piece, ...]]
    """Name of the parameter -> pieces in the order of its rows."""
    objects: dict[str, ShardedObject]
    """Name of a module's extra state -> its place; without data."""


def pieces_of(model: Any) -> Pieces:
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
            of_params[name] = tuple(_in_order(entry))
            _check_rows(name, params[name], of_params[name])
    return Pieces(of_params=of_params, objects=objects)


def _in_order(entry: ShardedTensor | ShardedTensorFactory) -> Iterator[Piece]:
    blocks = entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]
    first_row = 0
    for block in blocks:
        piece = Piece(first_row=first_row, block=block.without_data())
        yield piece
        first_row = piece.end_row


def _check_rows(name: str, param: torch.Tensor, pieces: tuple[Piece, ...]) -> None:
    shapes = {tuple(piece.block.local_shape[1:]) for piece in pieces}
    assert pieces[-1].end_row == param.shape[0], f"{name} is not saved row by row"
    assert shapes == {tuple(param.shape[1:])}, f"{name} is not saved row by row"


def place_rows(
    rows: torch.Tensor, *, first_row: int, pieces: tuple[Piece, ...], prefix: str = ""
) -> list[ShardedTensor]:
    """``rows`` of a parameter, from ``first_row`` on, as blocks of saved tensors."""
    return [
        _block(rows, first_row=first_row, piece=piece, prefix=prefix)
        for piece in pieces
        if max(piece.first_row, first_row) < min(piece.end_row, first_row + rows.shape[0])
    ]


def _block(rows: torch.Tensor, *, first_row: int, piece: Piece, prefix: str) -> ShardedTensor:
    """The rows that lie in ``piece``; views of ``rows``, so that a load fills them in place."""
    start = max(piece.first_row, first_row)
    end = min(piece.end_row, first_row + rows.shape[0])
    data = rows[start - first_row : end - first_row]
    axis = piece.block.prepend_axis_num
    offset = list(piece.block.global_offset)
    offset[axis] += start - piece.first_row
    data = data.view((1,) * axis + tuple(data.shape))
    return replace(
        piece.block,
        key=f"{prefix}{piece.block.key}",
        data=data,
        dtype=data.dtype,
        local_shape=tuple(data.shape),
        global_offset=tuple(offset),
        # Blocks of unequal size; torch's checkpoint format needs no grid.
        axis_fragmentations=None,
        prepend_axis_num=0,
        replica_id=(*piece.block.replica_id[:-1], 0),
    )
