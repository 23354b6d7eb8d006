# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run: megatron-core's, with each parameter in the group its role asks for."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate

from megacpt.checkpoint.state.adam import drop_classes, use_fused_kernel
from megacpt.config.sections import (
    AdapterConfig,
    Dtype,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
)
from megacpt.families.weights import Role
from megacpt.plan.optimizers import MATRICES, OPTIMIZERS


def build_optimizer(
    chunks: list[Any],
    *,
    optim: OptimConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    device: torch.device,
    adapter: AdapterConfig | None = None,
) -> Any:
    """Optimizer of wrapped chunks."""
    # An offloading optimizer takes views of fp32 parameters, which must not carry a graph.
    with torch.no_grad():
        optimizer = get_megatron_optimizer(
            optimizer_config(
                optim, parallel=parallel, precision=precision, on_gpu=device.type != "cpu"
            ),
            chunks,
            config_overrides=overrides(optim, adapter=adapter),
        )
    use_fused_kernel(optimizer)
    drop_classes(optimizer)
    return optimizer


def optimizer_config(
    optim: OptimConfig, *, parallel: ParallelConfig, precision: PrecisionConfig, on_gpu: bool
) -> OptimizerConfig:
    row = OPTIMIZERS[optim.optimizer]
    # With cut weights the parameters that the optimizer sees are fp32 masters already.
    bf16 = precision.dtype is Dtype.bf16 and not parallel.sharded_weights
    return OptimizerConfig(
        optimizer=row.megatron_name,
        lr=optim.lr_peak,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        adam_eps=optim.eps,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=parallel.distributed_optimizer,
        **_offload(on_gpu=on_gpu) if optim.offload else {},
        **row.arguments(optim, precision.dtype),
        overlap_param_gather=parallel.overlap_param_gather,
        fp8_recipe=precision.recipe.value if precision.fp8_param_gather else None,
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


def overrides(
    optim: OptimConfig, *, adapter: AdapterConfig | None = None
) -> dict[ParamKey, dict[str, float]]:
    """What differs from the run's rate and decay, role by role; roles do not overlap."""
    # Rows that take no gradient would still decay.
    decays = optim.decay_embeddings and (adapter is None or adapter.new_tokens_from is None)
    tables = 1.0 if decays else 0.0
    vectors = 1.0 if optim.decay_norms else 0.0
    matrices = OPTIMIZERS[optim.optimizer].matrix_lr_multiplier(optim)
    wanted: dict[tuple[Role, ...], dict[str, float]] = {
        (Role.embedding,): {"lr_mult": optim.embedding_lr_multiplier, "wd_mult": tables},
        (Role.head,): {"lr_mult": optim.head_lr_multiplier, "wd_mult": tables},
        (Role.norm, Role.scale, Role.bias, Role.magnitude): {"wd_mult": vectors},
        (Role.factor_out,): {"lr_mult": adapter.b_lr_multiplier if adapter else 1.0},
        MATRICES: {"lr_mult": matrices},
    }
    return {
        ParamKey(with_name_predicate=_has_role(roles)): multipliers
        for roles, multipliers in wanted.items()
        if any(value != 1.0 for value in multipliers.values())
    }


def _has_role(roles: tuple[Role, ...]) -> ParamWithNamePredicate:
    """Parameters carry the role of their row (megacpt.model.build)."""
    name = "+".join(role.value for role in roles)
    return ParamWithNamePredicate(name=name, fn=lambda param, _: param.role in roles)


def set_learning_rate(optimizer: Any, *, lr: float, optim: OptimConfig) -> None:
    """Apply the step's rate, times each group's multipliers."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = optim.weight_decay * group.get("wd_mult", 1.0)
