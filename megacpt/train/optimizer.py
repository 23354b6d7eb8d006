# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run: megatron-core's, with each parameter in the group its role asks for."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate

from megacpt.checkpoint.state.adam import drop_classes, use_fused_kernel
from megacpt.config.sections import Dtype, OptimConfig, Optimizer, RunConfig

MUON_RMS = 0.2
"""Root mean square of a ``spectral`` update before the rate: about AdamW's, so that one rate suits
both (Liu et al., equation 4, https://arxiv.org/abs/2502.16982)."""


class Role(Enum):
    """What a parameter is, as far as its learning rate and weight decay go."""

    embedding = "embedding"
    head = "head"
    vector = "vector"
    """Norms and biases."""
    matrix = "matrix"


def build_optimizer(
    chunks: list[Any], *, config: RunConfig, tied: bool, device: torch.device
) -> Any:
    """For wrapped chunks; ``tied``: embedding and head are one tensor."""
    # An offloading optimizer takes views of fp32 parameters, which must not carry a graph.
    with torch.no_grad():
        optimizer = get_megatron_optimizer(
            optimizer_config(config, on_gpu=device.type != "cpu"),
            chunks,
            config_overrides=overrides(config.optim, tied=tied),
        )
    use_fused_kernel(optimizer)
    drop_classes(optimizer)
    return optimizer


def optimizer_config(config: RunConfig, *, on_gpu: bool) -> OptimizerConfig:
    optim, parallel = config.optim, config.parallel
    # With cut weights the parameters that the optimizer sees are fp32 masters already.
    bf16 = config.precision.dtype is Dtype.bf16 and not parallel.sharded_weights
    return OptimizerConfig(
        optimizer="muon" if optim.optimizer is Optimizer.muon else "adam",
        lr=optim.lr_peak,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        adam_eps=optim.eps,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=parallel.distributed_optimizer,
        **_offload(on_gpu=on_gpu) if optim.offload else {},
        **_muon(config) if optim.optimizer is Optimizer.muon else {},
        overlap_param_gather=parallel.overlap_param_gather,
        fp8_recipe=config.precision.recipe.value if config.precision.fp8_param_gather else None,
        # Infinity reports the norm and scales nothing; 0 would skip measuring it.
        clip_grad=optim.clip_grad_norm or float("inf"),
    )


def _offload(*, on_gpu: bool) -> dict[str, Any]:
    """All of the state in host memory, and AdamW there, while the device sends and receives."""
    return {
        "optimizer_cpu_offload": True,
        "optimizer_offload_fraction": 1.0,
        "overlap_cpu_optimizer_d2h_h2d": True,
        # Without it the device would keep fp32 masters beside those of the host.
        "use_precision_aware_optimizer": True,
        "pin_cpu_grads": on_gpu,
        "pin_cpu_params": on_gpu,
    }


def _muon(config: RunConfig) -> dict[str, Any]:
    muon = config.optim.muon
    return {
        "muon_momentum": muon.momentum,
        "muon_nesterov": muon.nesterov,
        "muon_num_ns_steps": muon.newton_schulz_steps,
        "muon_scale_mode": muon.scale,
        "muon_extra_scale_factor": MUON_RMS if muon.scale == "spectral" else 1.0,
        # bf16 products suffice for an update whose singular values need only be about one.
        "muon_fp32_matmul_prec": "highest" if config.precision.dtype is Dtype.fp32 else "medium",
        # Every rank orthogonalises the gathered matrix: the same update for any tp.
        "muon_tp_mode": "duplicated",
    }


def role_of(name: str, *, param: Any, tied: bool) -> Role:
    """``name``: as the model has it. The last pipeline stage's copy of a tied embedding has the
    head's name."""
    if name.endswith("word_embeddings.weight"):
        return Role.embedding
    if name.endswith("output_layer.weight"):
        return Role.embedding if tied else Role.head
    return Role.vector if param.ndim == 1 or name.endswith(".bias") else Role.matrix


def overrides(optim: OptimConfig, *, tied: bool) -> dict[ParamKey, dict[str, float]]:
    """What differs from the run's rate and decay, role by role; roles do not overlap."""
    tables = 1.0 if optim.decay_embeddings else 0.0
    matrices = optim.muon.lr_multiplier if optim.optimizer is Optimizer.muon else 1.0
    wanted = {
        Role.embedding: {"lr_mult": optim.embedding_lr_multiplier, "wd_mult": tables},
        Role.head: {"lr_mult": optim.head_lr_multiplier, "wd_mult": tables},
        Role.vector: {"lr_mult": 1.0, "wd_mult": 1.0 if optim.decay_norms else 0.0},
        Role.matrix: {"lr_mult": matrices},
    }
    return {
        ParamKey(
            with_name_predicate=ParamWithNamePredicate(
                name=role.value, fn=_has_role(role, tied=tied)
            )
        ): multipliers
        for role, multipliers in wanted.items()
        if any(value != 1.0 for value in multipliers.values())
    }


def _has_role(role: Role, *, tied: bool) -> Callable[[Any, str], bool]:
    return lambda param, name: role_of(name, param=param, tied=tied) is role


def set_learning_rate(optimizer: Any, *, lr: float, optim: OptimConfig) -> None:
    """Apply the step's rate, times each group's multipliers."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = optim.weight_decay * group.get("wd_mult", 1.0)
