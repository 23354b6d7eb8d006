# SPDX-License-Identifier: Apache-2.0
"""The moving parts of a run on one rank, built once: model chunks, DDP, optimizer."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads

from megacpt.config.sections import AdapterConfig, OptimConfig, ParallelConfig, PrecisionConfig
from megacpt.model.chunks import wrap_for_forward
from megacpt.model.kernels import bucket_parameters
from megacpt.train.optimizer import build_optimizer


@dataclass(slots=True, kw_only=True)
class TrainState:
    """Model and optimizer of one rank. ``chunks`` has one entry a virtual pipeline stage."""

    chunks: list[Any]
    """DistributedDataParallel around (Float16Module around) a GPTModel, or ShardedWeights."""
    optimizer: Any
    transformer: Any
    """The TransformerConfig all chunks share; the schedules read their callbacks from it."""

    def become(self, build: Callable[[], TrainState]) -> None:
        """Take over what ``build`` makes; what was there is freed first, as only one may fit."""
        self.chunks, self.optimizer, self.transformer = [], None, None
        gc.collect()
        built = build()
        self.chunks, self.optimizer = built.chunks, built.optimizer
        self.transformer = built.transformer


def wrap_for_training(
    chunks: list[Any],
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    optim: OptimConfig,
    device: torch.device,
    adapter: AdapterConfig | None = None,
) -> TrainState:
    """Put data parallelism and the optimizer around bare chunks and register their callbacks."""
    transformer = chunks[0].config
    wrapped = wrap_for_forward(chunks, parallel=parallel, precision=precision, device=device)
    if not parallel.sharded_weights:
        wrapped = _data_parallel(wrapped, parallel=parallel, precision=precision, device=device)
    optimizer = build_optimizer(
        wrapped,
        optim=optim,
        parallel=parallel,
        precision=precision,
        device=device,
        adapter=adapter,
    )
    transformer.grad_scale_func = optimizer.scale_loss
    transformer.finalize_model_grads_func = _finalize_gradients
    if parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in wrapped]
        transformer.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return TrainState(chunks=wrapped, optimizer=optimizer, transformer=transformer)


def _finalize_gradients(chunks: list[Any], *args: Any, **settings: Any) -> None:
    """megatron-core's sums over ranks; of rows that are not trained nothing is left."""
    finalize_model_grads(chunks, *args, **settings)
    for chunk in chunks:
        for parameter in chunk.parameters():
            if rows := getattr(parameter, "frozen_rows", 0):
                parameter.main_grad[:rows].zero_()


def _data_parallel(
    chunks: list[Any],
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    device: torch.device,
) -> list[Any]:
    transformer = chunks[0].config
    ddp = DistributedDataParallelConfig(
        bucket_size=bucket_parameters(parallel, on_gpu=device.type != "cpu"),
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        fp8_param_gather=precision.fp8_param_gather,
    )
    # Buckets exist to overlap; only the first virtual stage profits (as in Megatron-LM).
    return [
        DistributedDataParallel(transformer, ddp, chunk, disable_bucketing=n > 0)
        for n, chunk in enumerate(chunks)
    ]
