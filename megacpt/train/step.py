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
from megacpt.train.schedule import LossSums, Microbatch, run_microbatches, to_microbatch
from megacpt.train.state import TrainState, set_learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The same on every rank, but for the seconds."""

    sums: LossSums
    grad_norm: float
    """Global L2 norm before clipping."""
    lr: float
    step_s: float


def train_step(
    state: TrainState, *, config: RunConfig, data: TrainingData, step: int, device: torch.device
) -> StepResult:
    """Take optimizer step ``step`` (the first is 1)."""
    started_at = time.perf_counter()
    for chunk in state.chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    microbatches = rank_microbatches(data, config=config, step=step - 1, device=device)
    sums = run_microbatches(
        state.chunks, microbatches, num_sources=len(data.source_names), forward_only=False
    )
    lr = learning_rate(step, optim=config.optim, schedule=config.schedule)
    set_learning_rate(state.optimizer, lr=lr, optim=config.optim)
    _, grad_norm, _ = state.optimizer.step()
    runtime.synchronize(device)
    elapsed_s = time.perf_counter() - started_at
    return StepResult(sums=sums, grad_norm=float(grad_norm), lr=lr, step_s=elapsed_s)


def rank_positions(config: RunConfig, *, dp_rank: int, dp_size: int) -> list[list[int]]:
    """This replica's positions in the global batch, microbatch by microbatch.

    Microbatch m of replica r takes positions (m * dp_size + r) * B up to the next one's, so the
    union over replicas is the global batch for any number of them.
    """
    size = config.data.micro_batch_size
    count = config.data.global_batch_size // (size * dp_size)
    starts = [(m * dp_size + dp_rank) * size for m in range(count)]
    return [list(range(start, start + size)) for start in starts]


def rank_microbatches(
    data: TrainingData, *, config: RunConfig, step: int, device: torch.device
) -> list[Microbatch]:
    """The microbatches of global batch ``step`` (the first is 0) that this rank computes."""
    positions = rank_positions(
        config,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
    )
    return [to_microbatch(data.load(step, positions=p), device=device) for p in positions]
