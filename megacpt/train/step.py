# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: this rank's samples, the schedule, the update."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from megacpt.config.sections import RunConfig
from megacpt.device import runtime
from megacpt.model.forward import LossSums, run_microbatches
from megacpt.model.layers.router import RoutingFigures, take_figures
from megacpt.plan.learning_rate import learning_rate
from megacpt.train.batches import Account, StepBatch
from megacpt.train.optimizer import set_learning_rate
from megacpt.train.prefetch import Prefetcher
from megacpt.train.state import TrainState
from megacpt.train.update import step_if


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What is known before the update is applied."""

    loss: float
    """Mean of all ranks' tokens."""
    grad_norm: float
    account: Account
    data_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The same on every rank, but for the seconds."""

    sums: LossSums
    grad_norm: float
    """Global L2 norm before clipping."""
    lr: float
    account: Account
    routing: RoutingFigures | None
    """``None``: the model has no experts."""
    step_s: float
    """All of it, the wait for data included."""
    data_wait_s: float


def train_step(
    state: TrainState,
    *,
    config: RunConfig,
    batches: Prefetcher[StepBatch],
    step: int,
    device: torch.device,
    lr_factor: float = 1.0,
    accept: Callable[[StepFacts], bool] = lambda facts: True,
) -> StepResult:
    """Take optimizer step ``step`` (the first is 1); the update is applied where ``accept`` says
    so, the same on every rank."""
    started_at = time.perf_counter()
    batch = batches.take(step)
    data_wait_s = time.perf_counter() - started_at
    for chunk in state.chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    sums = run_microbatches(
        state.chunks,
        microbatches=[microbatch.to(device) for microbatch in batch.microbatches],
        num_sources=len(batch.account.samples_per_source),
        forward_only=False,
    )
    lr = lr_factor * learning_rate(step, optim=config.optim, schedule=config.schedule)
    set_learning_rate(state.optimizer, lr=lr, optim=config.optim)

    def accept_norm(grad_norm: float) -> bool:
        return accept(
            StepFacts(
                loss=sums.mean_loss,
                grad_norm=grad_norm,
                account=batch.account,
                data_wait_s=data_wait_s,
            )
        )

    grad_norm = step_if(state.optimizer, accept=accept_norm)
    routing = take_figures(state.chunks)
    runtime.synchronize(device)
    return StepResult(
        sums=sums,
        grad_norm=grad_norm,
        lr=lr,
        account=batch.account,
        routing=routing,
        step_s=time.perf_counter() - started_at,
        data_wait_s=data_wait_s,
    )
