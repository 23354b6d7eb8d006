# SPDX-License-Identifier: Apache-2.0
"""Optimizer state under one set of names and shapes, whichever optimizer of megatron-core holds it.

    optimizer.state.exp_avg.WEIGHT       first moment, fp32, of the shape of WEIGHT
    optimizer.state.exp_avg_sq.WEIGHT    second moment
    optimizer.state.fp32_param.WEIGHT    master, only where WEIGHT itself is narrower than fp32

zero3.py beside it writes the same for ZeRO-3, so each layout reads what any other has written.
megatron-core by itself would not: its distributed optimizer names masters ``param`` and writes them
for fp32 weights too, where no other optimizer has any; to be reshardable it first gathers the state
of all data-parallel ranks on each of them; and parameter groups, which differ between stages and
optimizers, would come from the rank that wrote them. Here each rank writes the elements it has. No
group is saved: rates and multipliers are the run's own, the number of updates is in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from megacpt.checkpoint.state import adam
from megacpt.model.blocks import pieces_of_entry, place_elements

Entries = dict[str, Any]
PREFIX = "optimizer.state."
MASTER = "fp32_param"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the state of one of megatron-core's optimizers lies, in the file and in memory."""

    entries: Entries
    """Weight -> key -> what megatron-core saves and loads."""
    tensors: dict[str, dict[str, list[torch.Tensor]]]
    """The same, in memory: one tensor, or the blocks that this rank has."""

    def fill(self, loaded: Entries) -> None:
        """The weights have been filled already: masters of fp32 weights are these themselves."""
        for name, tensors in self.tensors.items():
            for key, targets in tensors.items():
                found = loaded[name][key]
                blocks = found if isinstance(found, list) else [found]
                for target, block in zip(targets, blocks, strict=True):
                    target.copy_(block)


def places(optimizer: Any, *, model: Entries) -> dict[str, Places]:
    """By a name for each optimizer with parameters on this rank; ``model``: the chunks' entries."""
    return {
        f"part{n}": _distributed(part, model=model)
        if isinstance(part, DistributedOptimizer)
        else _whole(part, model=model)
        for n, part in enumerate(adam.megatron_parts(optimizer))
        if part.optimizer is not None and not getattr(part, "is_stub_optimizer", False)
    }


def _distributed(part: Any, *, model: Entries) -> Places:
    """Each rank has successive elements of some of the weights."""
    entries: Entries = {}
    tensors: dict[str, dict[str, list[torch.Tensor]]] = {}
    for name, weight in _weights(model):
        if (found := _own(part, param=weight.data)) is None:
            continue
        first, state = found
        pieces = pieces_of_entry(weight, shape=weight.data.shape)
        entries[name] = {
            key: place_elements(tensor, first=first, pieces=pieces, prefix=f"{PREFIX}{key}.")
            for key, tensor in state.items()
        }
        tensors[name] = {
            key: [block.data for block in blocks] for key, blocks in entries[name].items()
        }
    return Places(entries=entries, tensors=tensors)


def _own(part: Any, *, param: torch.Tensor) -> tuple[int, dict[str, torch.Tensor]] | None:
    """The first element of a parameter that this rank has, and the state of all that it has."""
    if param not in part.model_param_group_index_map:
        return None
    state = part._get_main_param_and_optimizer_states(param)
    keys = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
    if param.dtype is not torch.float32:
        keys["param"] = MASTER
    first = part._get_model_param_range_map(param)["param"].start
    return first, {keys[k]: v.detach().view(-1) for k, v in state.items() if k in keys}


def _whole(part: Any, *, model: Entries) -> Places:
    entries: Entries = {}
    tensors: dict[str, dict[str, list[torch.Tensor]]] = {}
    for name, weight in _weights(model):
        if state := _state(part, param=weight.data):
            tensors[name] = {key: [tensor] for key, tensor in state.items()}
            entries[name] = {
                key: make_sharded_optimizer_tensor(weight, tensor, prefix=f"{PREFIX}{key}")
                for key, tensor in state.items()
            }
    return Places(entries=entries, tensors=tensors)


def _state(part: Any, *, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """Moments and master of one parameter; empty where the part does not have it."""
    master = getattr(param, "main_param", param)
    if master not in part.optimizer.state:
        return {}
    state = {k: v.detach() for k, v in part.optimizer.state[master].items() if k != "step"}
    return state if master is param else state | {MASTER: master.detach()}


def _weights(model: Entries) -> Iterator[tuple[str, ShardedTensor | ShardedTensorFactory]]:
    """Of all chunks on this rank, by a name that is theirs alone."""
    for chunk, entries in model.items():
        for name, entry in entries.items():
            if isinstance(entry, (ShardedTensor, ShardedTensorFactory)):
                yield f"{chunk}.{name}", entry
