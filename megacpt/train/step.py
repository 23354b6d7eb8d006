# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: this rank's samples, the schedule, the update."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from megatron.core import parallel_state

from megacpt.config.sections import RunConfig
from megacpt.data.order import TrainingData
from megacpt.device import runtime
from megacpt.plan.schedule import learning_rate
from megacpt.train.microbatch import Microbatch, host_microbatch
from megacpt.train.prefetch import Prefetcher
from megacpt.train.schedule import LossSums, run_microbatches
from megacpt.train.state import TrainState, set_learning_rate

Batches = Prefetcher[list[Microbatch]]
"""This rank's microbatches of every step, on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The same on every rank, but for the seconds."""

    sums: LossSums
    grad_norm: float
    """Global L2 norm before clipping."""
    lr: float
    step_s: float
    """All of it, the wait for data included."""
    data_wait_s: float


def train_step(
    state: TrainState,
    *,
    config: RunConfig,
    batches: Batches,
    num_sources: int,
    step: int,
    device: torch.device,
) -> StepResult:
    """Take optimizer step ``step`` (the first is 1)."""
    started_at = time.perf_counter()
    microbatches = batches.take(step)
    data_wait_s = time.perf_counter() - started_at
    for chunk in state.chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    sums = run_microbatches(
        state.chunks,
        [microbatch.to(device) for microbatch in microbatches],
        num_sources=num_sources,
        forward_only=False,
    )
    lr = learning_rate(step, optim=config.optim, schedule=config.schedule)
    set_learning_rate(state.optimizer, lr=lr, optim=config.optim)
    _, grad_norm, _ = state.optimizer.step()
    runtime.synchronize(device)
    return StepResult(
        sums=sums,
        grad_norm=float(grad_norm),
        lr=lr,
        step_s=time.perf_counter() - started_at,
        data_wait_s=data_wait_s,
    )


def read_batches(
    data: TrainingData, *, config: RunConfig, first_step: int, device: torch.device
) -> Batches:
    """From ``first_step`` (the first is 1) on, ``data.prefetch_steps`` of them ahead."""
    dp_rank = parallel_state.get_data_parallel_rank()
    dp_size = parallel_state.get_data_parallel_world_size()

    def load(step: int) -> list[Microbatch]:
        positions = rank_positions(
            data.batch_size(step - 1),
            micro_batch_size=config.data.micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
        )
        batches = [data.load(step - 1, positions=p) for p in positions]
        masked = config.data.document_mask
        return [host_microbatch(b, document_mask=masked, device=device) for b in batches]

    return Prefetcher(
        load,
        first=first_step,
        last=config.schedule.steps,
        num_ahead=config.data.prefetch_steps,
    )


def rank_positions(
    batch_size: int, *, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[list[int]]:
    """This replica's positions in a global batch, microbatch by microbatch.

    Microbatch m of replica r takes positions (m * dp_size + r) * B up to the next one's, so the
    union over replicas is the global batch for any number of them.
    """
    count = batch_size // (micro_batch_size * dp_size)
    starts = [(m * dp_size + dp_rank) * micro_batch_size for m in range(count)]
    return [list(range(start, start + micro_batch_size)) for start in starts]
