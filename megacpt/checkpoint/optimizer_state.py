# SPDX-License-Identifier: Apache-2.0
"""Optimizer state under one set of names and shapes, whichever optimizer of megatron-core holds it.

    optimizer.state.exp_avg.WEIGHT       first moment, fp32, of the shape of WEIGHT
    optimizer.state.exp_avg_sq.WEIGHT    second moment
    optimizer.state.fp32_param.WEIGHT    master, only where WEIGHT itself is narrower than fp32

megacpt.checkpoint.cut writes the same for ZeRO-3, so each layout reads what any other has written.
megatron-core by itself would not: its distributed optimizer names masters ``param`` and writes them
for fp32 weights too, where no other optimizer has any; and parameter groups, which differ between
stages and optimizers, would come from the rank that wrote them. No group is saved here: rates and
multipliers are the run's own, and the number of updates is in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from megacpt.checkpoint import adam

Entries = dict[str, Any]
PREFIX = "optimizer.state."
MASTER = "fp32_param"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the state of one of megatron-core's optimizers lies, in the file and in memory."""

    part: Any
    entries: Entries
    tensors: dict[str, dict[str, torch.Tensor]]
    """The same as ``entries`` where a load can be copied to; empty where it is cut over ranks."""

    def fill(self, loaded: Entries) -> None:
        """The weights have been filled already: masters of fp32 weights are these themselves."""
        if isinstance(self.part, DistributedOptimizer):
            state = {int(number): tensors for number, tensors in loaded.items()}
            self.part.load_parameter_state_from_fully_reshardable(state)
        for name, tensors in self.tensors.items():
            for key, tensor in tensors.items():
                tensor.copy_(loaded[name][key])


def places(
    optimizer: Any, *, model: Entries, metadata: Entries, is_loading: bool = False
) -> dict[str, Places]:
    """By a name for each optimizer with parameters on this rank; ``model``: the chunks' entries.

    A collective call where the state is cut over ranks.
    """
    return {
        f"part{n}": _distributed(part, model=model, metadata=metadata, is_loading=is_loading)
        if isinstance(part, DistributedOptimizer)
        else _whole(part, model=model)
        for n, part in enumerate(adam.megatron_parts(optimizer))
        if part.optimizer is not None and not getattr(part, "is_stub_optimizer", False)
    }


def _distributed(part: Any, *, model: Entries, metadata: Entries, is_loading: bool) -> Places:
    """megatron-core's own exchange between the ranks, under the names that all layouts share."""
    narrow = {entry.key for _, entry in _weights(model) if entry.data.dtype is not torch.float32}
    state = part.sharded_param_state_fully_reshardable(model, is_loading, metadata)
    entries = {
        str(number): dict(_shared_names(tensors, narrow=narrow))
        for number, tensors in (state or {}).items()
    }
    return Places(part=part, entries=entries, tensors={})


def _shared_names(tensors: Entries, *, narrow: set[str]) -> Iterator[tuple[str, Any]]:
    for key, entry in tensors.items():
        weight = entry.key.removeprefix(f"{PREFIX}{key}.")
        if key != "param":
            yield key, entry
        elif weight in narrow:
            yield MASTER, replace(entry, key=f"{PREFIX}{MASTER}.{weight}")


def _whole(part: Any, *, model: Entries) -> Places:
    tensors, entries = {}, {}
    for name, weight in _weights(model):
        if state := _state(part, weight.data):
            tensors[name] = state
            entries[name] = {
                key: make_sharded_optimizer_tensor(weight, tensor, prefix=f"{PREFIX}{key}")
                for key, tensor in state.items()
            }
    return Places(part=part, entries=entries, tensors=tensors)


def _state(part: Any, param: torch.Tensor) -> dict[str, torch.Tensor]:
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
