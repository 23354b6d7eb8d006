# SPDX-License-Identifier: Apache-2.0
"""Make torch's AdamW state loadable through megatron-core's optimizers.

megatron-core was written for FusedAdam of Apex or Transformer Engine, which keeps one ``step`` in
the parameter group. torch's AdamW keeps a ``step`` tensor for each parameter, and that breaks a
resume in three places (0.16.1 and 0.19.2): a fresh optimizer has no state to load into, the
distributed optimizer raises KeyError on ``step``, and a loaded ``step`` is one tensor shared by all
parameters, so that every update would count once for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import AdamW


def megatron_parts(optimizer: Any) -> list[Any]:
    """The megatron-core optimizers inside a (possibly chained) one."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _adamw_parameters(optimizer: Any) -> Iterator[tuple[AdamW, torch.Tensor]]:
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, AdamW):
            for group in part.optimizer.param_groups:
                for param in group["params"]:
                    yield part.optimizer, param


def use_fused_kernel(optimizer: Any) -> None:
    """Update all parameters in torch's fused AdamW kernel, several times the speed of its loop."""
    for part in megatron_parts(optimizer):
        if isinstance(part.optimizer, AdamW):
            for group in part.optimizer.param_groups:
                group["fused"] = True
                group["foreach"] = False


def state_of(optimizer: Any, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """The moments of one parameter; empty where no part has it."""
    for part in megatron_parts(optimizer):
        if param in part.optimizer.state:
            state: dict[str, torch.Tensor] = part.optimizer.state[param]
            return state
    return {}


def allocate_state(optimizer: Any) -> None:
    """Give a fresh AdamW the zero state its first step would have made."""
    for adamw, param in _adamw_parameters(optimizer):
        if not adamw.state[param]:
            adamw.state[param] = {
                "step": torch.zeros((), dtype=torch.float32, device=param.device),
                "exp_avg": torch.zeros_like(param.data),
                "exp_avg_sq": torch.zeros_like(param.data),
            }


def pass_step_through(optimizer: Any) -> None:
    """Let the distributed optimizer copy its parameter state although it has no ``step``."""
    for part in megatron_parts(optimizer):
        copy_states = getattr(part, "_set_main_param_and_optimizer_states", None)
        if copy_states is None or not isinstance(part.optimizer, AdamW):
            continue

        def copy_with_step(
            model_param: Any, tensors: Any, *, part: Any = part, copy: Any = copy_states
        ) -> None:
            group, order = part.model_param_group_index_map[model_param]
            main_param = part.optimizer.param_groups[group]["params"][order]
            copy(model_param, {"step": part.optimizer.state[main_param]["step"], **tensors})

        part._set_main_param_and_optimizer_states = copy_with_step


def own_step(optimizer: Any, *, step: int) -> None:
    """Give every parameter a ``step`` of its own after a load, and check that it is ``step``."""
    for adamw, param in _adamw_parameters(optimizer):
        loaded = int(adamw.state[param]["step"])
        assert loaded == step, f"AdamW was restored at step {loaded}, the run is at {step}"
    set_step(optimizer, step=step)


def set_step(optimizer: Any, *, step: int) -> None:
    for adamw, param in _adamw_parameters(optimizer):
        adamw.state[param]["step"] = torch.tensor(float(step), device=param.device)
