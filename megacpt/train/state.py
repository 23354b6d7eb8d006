# SPDX-License-Identifier: Apache-2.0
"""The moving parts of a run on one rank, built once: model chunks, DDP, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.transformer.module import Float16Module

from megacpt.config.sections import Dtype, Init, RunConfig
from megacpt.device.runtime import Runtime
from megacpt.families.architecture import Architecture
from megacpt.model.build import build_model
from megacpt.model.kernels import bucket_parameters
from megacpt.model.weights import initialise_randomly, load_hf
from megacpt.model.zero3 import ShardedWeights
from megacpt.plan.blend_rules import longest
from megacpt.train.optimizer import build_optimizer


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What one rank holds. ``chunks`` has one entry a virtual pipeline stage."""

    chunks: list[Any]
    """DistributedDataParallel around (Float16Module around) a GPTModel, or ShardedWeights."""
    optimizer: Any
    transformer: Any
    """The TransformerConfig all chunks share; the schedules read their callbacks from it."""


def build_chunks(
    config: RunConfig, *, architecture: Architecture, runtime: Runtime, base_folder: Path
) -> list[Any]:
    """This rank's stages with the base model's weights (or random ones, where asked for)."""
    chunks = build_model(
        architecture.balanced_by(config.model.router_aux_loss_coef),
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
    if not config.parallel.sharded_weights:
        # Whole weights are more than the device should hold where they are about to be cut.
        for chunk in chunks:
            chunk.to(runtime.device)
    return chunks


def wrap_for_training(chunks: list[Any], *, config: RunConfig, device: torch.device) -> TrainState:
    """Put data parallelism and the optimizer around bare chunks and register their callbacks."""
    transformer = chunks[0].config
    tied = bool(chunks[0].share_embeddings_and_output_weights)
    wrapped = wrap_for_forward(chunks, config=config, device=device)
    if not config.parallel.sharded_weights:
        wrapped = _data_parallel(wrapped, config=config, device=device)
    optimizer = build_optimizer(wrapped, config=config, tied=tied, device=device)
    transformer.grad_scale_func = optimizer.scale_loss
    transformer.finalize_model_grads_func = finalize_model_grads
    if config.parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in wrapped]
        transformer.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return TrainState(chunks=wrapped, optimizer=optimizer, transformer=transformer)


def wrap_for_forward(chunks: list[Any], *, config: RunConfig, device: torch.device) -> list[Any]:
    """Chunks in the run's dtype, their weights cut where the run cuts them."""
    if config.parallel.sharded_weights:
        return [ShardedWeights(chunk, device=device) for chunk in chunks]
    if config.precision.dtype is Dtype.bf16:
        return [Float16Module(chunk.config, chunk) for chunk in chunks]
    return chunks


def _data_parallel(chunks: list[Any], *, config: RunConfig, device: torch.device) -> list[Any]:
    parallel, transformer = config.parallel, chunks[0].config
    ddp = DistributedDataParallelConfig(
        bucket_size=bucket_parameters(parallel, on_gpu=device.type != "cpu"),
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        fp8_param_gather=config.precision.fp8_param_gather,
    )
    # Buckets exist to overlap; only the first virtual stage profits (as in Megatron-LM).
    return [
        DistributedDataParallel(transformer, ddp, chunk, disable_bucketing=n > 0)
        for n, chunk in enumerate(chunks)
    ]
