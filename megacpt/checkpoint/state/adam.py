# SPDX-License-Identifier: Apache-2.0
"""Make the state of megatron-core's optimizers complete before a load, and right after it.

A fresh AdamW of torch has no state to load into. It keeps a ``step`` tensor for each parameter,
where FusedAdam of Apex or Transformer Engine has one in the parameter group. None is loaded, it is
set; for each parameter a tensor of its own: one that all shared would count every update once for
each of them.
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


def state_of(optimizer: Any, *, param: torch.Tensor) -> dict[str, torch.Tensor]:
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
    """Let the part show the state of the optimizers on the host as its own."""
    part.optimizer._sync_sub_optimizers_state_to_hdo()


def renew_copies(optimizer: Any) -> None:
    """After a load: an offloading optimizer updates a copy on the host, of fp32 weights too."""
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, HybridDeviceOptimizer):
            for weight, copy in part.optimizer.param_to_inner_param.items():
                if weight.dtype is torch.float32:
                    copy.data.copy_(weight.data)


def set_step(optimizer: Any, *, step: int) -> None:
    """The number of updates made, after a load."""
    for adamw, param in _adamw_parameters(optimizer):
        adamw.state[param]["step"] = torch.tensor(float(step), device=param.device)
    for part in megatron_parts(optimizer):
        if part.optimizer is not None and not _adamws(part):
            for group in part.optimizer.param_groups:
                group["step"] = step
