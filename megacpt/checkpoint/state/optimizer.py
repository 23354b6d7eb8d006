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

from typing import Any, TypeAlias

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from megacpt.checkpoint.state import adam
from megacpt.model.blocks import place_elements, rows_of_entry

Entries = dict[str, Any]
Weight: TypeAlias = ShardedTensor | ShardedTensorFactory
PREFIX = "optimizer.state."
MASTER = "fp32_param"
MOMENTS = ("exp_avg", "exp_avg_sq")


def optimizer_entries(optimizer: Any, *, model: Entries) -> Entries:
    """Optimizer -> weight -> key -> what megatron-core saves; ``model``: the chunks' entries."""
    return {
        f"part{n}": _entries(member, model=model)
        for n, member in enumerate(adam.members(optimizer))
        if member.optimizer is not None and not getattr(member, "is_stub_optimizer", False)
    }


def tensors_of(entries: Entries) -> Entries:
    """The tensors in memory that ``entries`` refer to: one, or the blocks that this rank has."""
    return {
        owner: {
            name: {key: [e.data for e in _as_list(entry)] for key, entry in states.items()}
            for name, states in weights.items()
        }
        for owner, weights in entries.items()
    }


def fill_optimizer(tensors: Entries, *, loaded: Entries) -> None:
    """Copy what was loaded into the optimizer's tensors.

    The weights have been filled already: masters of fp32 weights are these themselves.
    """
    for owner, weights in tensors.items():
        for name, states in weights.items():
            for key, targets in states.items():
                blocks = _as_list(loaded[owner][name][key])
                for target, block in zip(targets, blocks, strict=True):
                    target.copy_(block)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entries(member: Any, *, model: Entries) -> Entries:
    """State of the weights that the optimizer has on this rank."""
    of_weight = _sharded if isinstance(member, DistributedOptimizer) else _whole
    found = {
        f"{chunk}.{name}": of_weight(member, weight=weight)
        for chunk, weights in model.items()
        for name, weight in weights.items()
        if isinstance(weight, Weight)
    }
    return {name: states for name, states in found.items() if states}


def _sharded(member: Any, *, weight: Weight) -> Entries:
    """Blocks of the successive elements that this rank has; empty where it has none."""
    param = weight.data
    if param not in member.model_param_group_index_map:
        return {}
    first = member._get_model_param_range_map(param)["param"].start
    rows = rows_of_entry(weight, shape=param.shape)
    names = {key: key for key in MOMENTS}
    if param.dtype is not torch.float32:
        names["param"] = MASTER
    return {
        names[key]: place_elements(
            tensor.detach().view(-1), first=first, rows=rows, prefix=f"{PREFIX}{names[key]}."
        )
        for key, tensor in member._get_main_param_and_optimizer_states(param).items()
        if key in names
    }


def _whole(member: Any, *, weight: Weight) -> Entries:
    """Moments and master; empty where the optimizer does not have the weight."""
    master = getattr(weight.data, "main_param", weight.data)
    if master not in member.optimizer.state:
        return {}
    state = {key: t for key, t in member.optimizer.state[master].items() if key != "step"}
    if master is not weight.data:
        state[MASTER] = master
    return {
        key: make_sharded_optimizer_tensor(weight, tensor.detach(), prefix=f"{PREFIX}{key}")
        for key, tensor in state.items()
    }
