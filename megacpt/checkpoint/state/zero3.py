# SPDX-License-Identifier: Apache-2.0
"""Checkpoint entries of weights and optimizer state sharded over data-parallel ranks (ZeRO-3).

Every rank writes the rows it holds, under the names and with the global shapes that the layouts
with whole weights use, the model's weights in the run's dtype and fp32 masters beside them. So a
base-model export, an evaluation or another number of ranks reads them like any other checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from megacpt.checkpoint.state import adam
from megacpt.checkpoint.state.optimizer import MASTER, MOMENTS, PREFIX, Entries
from megacpt.model.blocks import Rows, place_elements
from megacpt.model.zero3 import ShardedWeights


def is_sharded(chunks: list[Any]) -> bool:
    return isinstance(chunks[0], ShardedWeights)


def model_entries(chunk: ShardedWeights) -> Entries:
    """Weights in the run's dtype and the modules' extra state, by their names in the model."""
    dtype = chunk.config.params_dtype
    entries: Entries = {
        name: place_elements(_flat(param).to(dtype), first=_first(param), rows=rows)
        for name, param, rows in _params(chunk)
    }
    for name, place in chunk.blocks.objects.items():
        module = chunk.module.get_submodule(name.rpartition(".")[0])
        entries[name] = replace(place, data=module.get_extra_state())
    return entries


def fill_model(chunk: ShardedWeights, *, loaded: Entries, masters_follow: bool) -> None:
    """Put loaded weights into the rows of this rank.

    ``masters_follow``: the optimizer is filled next, with the same weights in fp32 where the run's
    dtype is narrower. They lie in the parameters already, since a load fills in place.
    """
    if not (masters_follow and _has_masters(chunk)):
        for name, param, rows in _params(chunk):
            targets = place_elements(_flat(param), first=_first(param), rows=rows)
            for target, block in zip(targets, loaded[name], strict=True):
                target.data.copy_(block)
    for name in chunk.blocks.objects:
        chunk.module.get_submodule(name.rpartition(".")[0]).set_extra_state(loaded[name])


def optimizer_entries(chunk: ShardedWeights, *, optimizer: Any) -> Entries:
    """Both moments of every parameter, and its fp32 master where the weights are bf16."""
    return {
        name: {
            key: place_elements(
                _flat(tensor),
                first=_first(param),
                rows=rows,
                prefix=f"{PREFIX}{key}.",
            )
            for key, tensor in _state(chunk, optimizer=optimizer, param=param).items()
        }
        for name, param, rows in _params(chunk)
    }


def _params(chunk: ShardedWeights) -> Iterator[tuple[str, DTensor, tuple[Rows, ...]]]:
    for name, param in chunk.module.named_parameters():
        assert isinstance(param, DTensor)
        yield name, param, chunk.blocks.of_params[name]


def _has_masters(chunk: ShardedWeights) -> bool:
    return chunk.config.params_dtype is not torch.float32


def _state(chunk: ShardedWeights, *, optimizer: Any, param: DTensor) -> dict[str, Any]:
    state = adam.state_of(optimizer, param=param)
    moments = {key: state[key] for key in MOMENTS}
    return moments | {MASTER: param} if _has_masters(chunk) else moments


def _flat(tensor: DTensor) -> torch.Tensor:
    return tensor.to_local().detach().view(-1)


def _first(tensor: DTensor) -> int:
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return int(offset[0]) * tensor.shape[1:].numel()
