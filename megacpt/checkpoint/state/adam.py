# SPDX-License-Identifier: Apache-2.0
"""Make the state of megatron-core's optimizers complete before a load, and right after it.

A fresh AdamW of torch has no state to load into. It keeps a ``step`` tensor for each parameter,
where FusedAdam of Apex or Transformer Engine has one in the parameter group. It is not loaded but
set, for each parameter in a tensor of its own: a shared one would count every update once for each
parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch.optim import AdamW


def members(optimizer: Any) -> list[Any]:
    """The megatron-core optimizers inside a (possibly chained) one."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _adamws(member: Any) -> list[AdamW]:
    """torch's optimizers in one: itself, or those of the host where its state is offloaded."""
    inner = [member.optimizer]
    if isinstance(member.optimizer, HybridDeviceOptimizer):
        inner = member.optimizer.sub_optimizers
    return [optimizer for optimizer in inner if isinstance(optimizer, AdamW)]


def _adamw_parameters(optimizer: Any) -> Iterator[tuple[AdamW, torch.Tensor]]:
    for member in members(optimizer):
        for adamw in _adamws(member):
            for group in adamw.param_groups:
                for param in group["params"]:
                    yield adamw, param


def use_fused_kernel(optimizer: Any) -> None:
    """Update all parameters in torch's fused AdamW kernel, several times the speed of its loop."""
    for member in members(optimizer):
        if isinstance(member.optimizer, AdamW):
            for group in member.optimizer.param_groups:
                group["fused"] = True
                group["foreach"] = False


def drop_classes(optimizer: Any) -> None:
    """Keep the classes of an offloading optimizer's two sides out of its groups.

    The groups go into the checkpoint, and torch refuses to read a class from a file.
    """
    for member in members(optimizer):
        if isinstance(member.optimizer, HybridDeviceOptimizer):
            for group in member.optimizer.param_groups:
                group.pop("cpu_optimizer_cls", None)
                group.pop("gpu_optimizer_cls", None)


def state_of(optimizer: Any, *, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """The moments of one parameter; empty where no optimizer has it."""
    for member in members(optimizer):
        if param in member.optimizer.state:
            state: dict[str, torch.Tensor] = member.optimizer.state[param]
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
    for member in members(optimizer):
        if isinstance(member.optimizer, HybridDeviceOptimizer):
            # Show the state of the optimizers on the host as its own.
            member.optimizer._sync_sub_optimizers_state_to_hdo()
        elif member.optimizer is not None and not _adamws(member) and not member.optimizer.state:
            # FusedAdam or Muon, as megatron-core itself does it.
            if isinstance(member, DistributedOptimizer):
                member.load_state_dict(member.state_dict())
            else:
                member.init_state_fn(member.optimizer, member.config)


def renew_copies(optimizer: Any) -> None:
    """After a load: an offloading optimizer updates a copy on the host, of fp32 weights too."""
    for member in members(optimizer):
        if isinstance(member.optimizer, HybridDeviceOptimizer):
            for weight, copy in member.optimizer.param_to_inner_param.items():
                if weight.dtype is torch.float32:
                    copy.data.copy_(weight.data)


def set_step(optimizer: Any, *, step: int) -> None:
    """Set the number of updates made, after a load."""
    for adamw, param in _adamw_parameters(optimizer):
        adamw.state[param]["step"] = torch.tensor(float(step), device=param.device)
    for member in members(optimizer):
        if member.optimizer is not None and not _adamws(member):
            for group in member.optimizer.param_groups:
                group["step"] = step
