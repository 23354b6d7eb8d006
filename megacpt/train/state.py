# SPDX-License-Identifier: Apache-2.0
"""The moving parts of a run on one rank, built once: model chunks, DDP, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from megacpt.checkpoint.adam import use_fused_kernel
from megacpt.config.sections import Dtype, Init, OptimConfig, ParallelConfig, RunConfig
from megacpt.device.runtime import Runtime
from megacpt.model.build import build_model
from megacpt.model.weights import initialise_randomly, load_hf
from megacpt.plan.architecture import Architecture
from megacpt.plan.blend_rules import longest


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What one rank holds. ``chunks`` has one entry a virtual pipeline stage."""

    chunks: list[Any]
    """DistributedDataParallel around (Float16Module around) a GPTModel."""
    optimizer: Any
    transformer: Any
    """The TransformerConfig all chunks share; the schedules read their callbacks from it."""


def build_chunks(
    config: RunConfig, *, architecture: Architecture, runtime: Runtime, base_folder: Path
) -> list[Any]:
    """This rank's stages with the base model's weights (or random ones, where asked for)."""
    chunks = build_model(
        architecture,
        parallel=config.parallel,
        precision=config.precision,
        kind=runtime.kind,
        sequence_length=longest(config.data),
        kernels=config.kernels,
    )
    if config.model.init is Init.random:
        initialise_randomly(chunks, architecture=architecture, seed=config.seed)
    else:
        load_hf(chunks, base_folder, architecture=architecture)
    for chunk in chunks:
        chunk.to(runtime.device)
    return chunks


def wrap_for_training(chunks: list[Any], *, config: RunConfig) -> TrainState:
    """Put DDP and the optimizer around bare chunks and register their callbacks."""
    transformer = chunks[0].config
    if config.precision.dtype is Dtype.bf16:
        chunks = [Float16Module(transformer, chunk) for chunk in chunks]
    chunks = _data_parallel(chunks, transformer=transformer, parallel=config.parallel)
    optimizer = get_megatron_optimizer(_optimizer_config(config), chunks)
    use_fused_kernel(optimizer)
    transformer.grad_scale_func = optimizer.scale_loss
    transformer.finalize_model_grads_func = finalize_model_grads
    if config.parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        transformer.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return TrainState(chunks=chunks, optimizer=optimizer, transformer=transformer)


def _data_parallel(chunks: list[Any], *, transformer: Any, parallel: ParallelConfig) -> list[Any]:
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
    )
    # Buckets exist to overlap; only the first virtual stage profits (as in Megatron-LM).
    return [
        DistributedDataParallel(transformer, ddp, chunk, disable_bucketing=n > 0)
        for n, chunk in enumerate(chunks)
    ]


def _optimizer_config(config: RunConfig) -> OptimizerConfig:
    optim, bf16 = config.optim, config.precision.dtype is Dtype.bf16
    return OptimizerConfig(
        optimizer="adam",
        lr=optim.lr_peak,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        adam_eps=optim.eps,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=config.parallel.distributed_optimizer,
        overlap_param_gather=config.parallel.overlap_param_gather,
        # Infinity reports the norm and scales nothing; 0 would skip measuring it.
        clip_grad=optim.clip_grad_norm or float("inf"),
    )


def set_learning_rate(optimizer: Any, *, lr: float, optim: OptimConfig) -> None:
    """Apply the step's rate; norms and biases (megatron-core's wd_mult 0) keep no weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = optim.weight_decay * group.get("wd_mult", 1.0)
