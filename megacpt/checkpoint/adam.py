# SPDX-License-Identifier: Apache-2.0
"""Make the state of megatron-core's optimizers complete before a load, and right after it.

megatron-core was written for FusedAdam of Apex or Transformer Engine, which keeps one ``step`` in
the parameter group. torch's AdamW keeps a ``step`` tensor for each parameter, and that breaks a
resume in two places (0.16.1 and 0.19.2): a fresh optimizer has no state to load into, and the
distributed optimizer raises KeyError on ``step``. No step is loaded here; it is set, for each
parameter a tensor of its own: one that all shared would count every update once for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch.optim import AdamW


def megatron_parts(optimizer: Any) -> list[Any]:
    """The megatron-core optimizers inside a (possibly chained) one."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _adamws(part: Any) -> list[AdamW]:
    """torch's optimizers of a part: one, or those of the host where its state is offloaded."""
    inner = [part.optimizer]
    if isinstance(part.optimizer, HybridDeviceOptimizer):
        inner = part.optimizer.sub_optimizers
    return [optimizer for optimizer in inner if isinstance(optimizer, AdamW)]


def _adamw_parameters(optimizer: Any) -> Iterator[tuple[AdamW, torch.Tensor]]:
    for part in megatron_parts(optimizer):
        for adamw in _adamws(part):
            for group in adamw.param_groups:
                for param in group["params"]:
                    yield adamw, param


def use_fused_kernel(optimizer: Any) -> None:
    """Update all parameters in torch's fused AdamW kernel, several times the speed of its loop."""
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, AdamW):
            for group in part.optimizer.param_groups:
                group["fused"] = True
                group["foreach"] = False


def drop_classes(optimizer: Any) -> None:
    """Keep the classes of an offloading optimizer's two sides out of its groups.

    The groups go into the checkpoint, and torch refuses to read a class from a file.
    """
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, HybridDeviceOptimizer):
            for group in part.optimizer.param_groups:
                group.pop("cpu_optimizer_cls", None)
                group.pop("gpu_optimizer_cls", None)


def state_of(optimizer: Any, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """The moments of one parameter; empty where no part has it."""
    for part in megatron_parts(optimizer):
        if param in part.optimizer.state:
            state: dict[str, torch.Tensor] = part.optimizer.state[param]
            return state
    return {}


def allocate_state(optimizer: Any) -> None:
    """Give a fresh optimizer the zero state its first step would have made."""
    for adamw, param in _adamw_parameters(optimizer):
        if not adamw.state[param]:
            adamw.state[param] = {
                "step": torch.zeros((), dtype=torch.float32, device=param.device),
                "exp_avg": torch.zeros_like(param.data),
                "exp_avg_sq": torch.zeros_like(param.data),
            }
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, HybridDeviceOptimizer):
            _prepare_offloaded(part)
        elif part.optimizer is not None and not _adamws(part) and not part.optimizer.state:
            _allocate_others(part)


def _allocate_others(part: Any) -> None:
    """FusedAdam's or Muon's, as megatron-core itself does it."""
    if isinstance(part, DistributedOptimizer):
        part.load_state_dict(part.state_dict())
    else:
        part.init_state_fn(part.optimizer, part.config)


def _prepare_offloaded(part: Any) -> None:
    """Let a part with offloaded state load in place.

    megatron-core's own way makes the host's optimizers anew and knows no fp32 model: it looks for
    the fp32 copy of every parameter, and an fp32 parameter has only its copy on the host.
    """
    hybrid = part.optimizer
    for param, copy in hybrid.param_to_inner_param.items():
        hybrid.param_to_fp32_param.setdefault(param, copy)
    hybrid._sync_sub_optimizers_state_to_hdo()

    def copy_in_place(model_param: Any, tensors: Any) -> None:
        group, order = part.model_param_group_index_map[model_param]
        shard = hybrid.param_groups[group]["params"][order]
        # An fp32 weight has no master in the checkpoint: it is the weight, loaded before.
        for name, tensor in {"param": shard, **tensors}.items():
            place = hybrid.state[shard]["master_param" if name == "param" else name]
            place.data.copy_(tensor)

    part._set_main_param_and_optimizer_states = copy_in_place


def complete_states(optimizer: Any) -> None:
    """Let the distributed optimizer copy what was loaded although it has no ``step``, and no master
    of an fp32 weight: that is a part of the weight itself, loaded before."""
    for part in megatron_parts(optimizer):
        copy_states = getattr(part, "_set_main_param_and_optimizer_states", None)
        if copy_states is None or isinstance(part.optimizer, HybridDeviceOptimizer):
            continue

        def copy_all(
            model_param: Any, tensors: Any, *, part: Any = part, copy: Any = copy_states
        ) -> None:
            copy(model_param, {**part._get_main_param_and_optimizer_states(model_param), **tensors})

        part._set_main_param_and_optimizer_states = copy_all


def set_step(optimizer: Any, *, step: int) -> None:
    """The number of updates made, after a load."""
    for adamw, param in _adamw_parameters(optimizer):
        adamw.state[param]["step"] = torch.tensor(float(step), device=param.device)
    for part in megatron_parts(optimizer):
        if part.optimizer is not None and not _adamws(part):
            for group in part.optimizer.param_groups:
                group["step"] = step
