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
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
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
    """Give a fresh AdamW the zero state its first step would have made."""
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
        state = hybrid.state[hybrid.param_groups[group]["params"][order]]
        for name, tensor in tensors.items():
            state["master_param" if name == "param" else name].data.copy_(tensor)

    def load(state: dict[str, Any]) -> None:
        # Asked for its places, the part loads its own empty state to have some.
        if "param_state" in state:
            part.load_parameter_state_from_fully_reshardable(state["param_state"])

    part._set_main_param_and_optimizer_states = copy_in_place
    part.load_state_dict = load


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
        if "master_param" in adamw.state[param]:
            continue  # Offloaded: moments and masters were loaded, the step was not.
        loaded = int(adamw.state[param]["step"])
        assert loaded == step, f"AdamW was restored at step {loaded}, the run is at {step}"
    set_step(optimizer, step=step)


def set_step(optimizer: Any, *, step: int) -> None:
    for adamw, param in _adamw_parameters(optimizer):
        adamw.state[param]["step"] = torch.tensor(float(step), device=param.device)
