# SPDX-License-Identifier: Apache-2.0
"""The pieces of an optimizer step: gradients, their norm, the update.

Between norm and update the caller may refuse the step: then weights, moments and step counts stay
as they are, in every optimizer and however its state is sharded.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

from megacpt.checkpoint.state.adam import members
from megacpt.config.sections import OptimConfig
from megacpt.model.forward import LossSums, run_microbatches
from megacpt.train.batches import StepBatch
from megacpt.train.optimizer import set_learning_rate
from megacpt.train.state import TrainState


def forward_backward(state: TrainState, *, batch: StepBatch, device: torch.device) -> LossSums:
    """Leave the gradients of the global batch in the buffers; its losses."""
    for chunk in state.chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    return run_microbatches(
        state.chunks,
        microbatches=[microbatch.to(device) for microbatch in batch.microbatches],
        num_sources=len(batch.account.samples_per_source),
        forward_only=False,
    )


def gradient_norm(optimizer: Any) -> float:
    """Global L2 norm before clipping; the optimizer holds the gradients from here on."""
    # It would report overflow, but only of fp16's loss scaling, which no run has.
    optimizer.prepare_grads()
    return float(optimizer.get_grad_norm())


@torch.no_grad()
def update(optimizer: Any, *, norm: float, lr: float, optim: OptimConfig) -> None:
    """megatron-core's ``step`` for gradients whose ``norm`` is known: it is not measured again."""
    set_learning_rate(optimizer, lr=lr, optim=optim)
    for part in members(optimizer):
        # None where this rank has no parameters of the part, such as experts.
        if parameters := part.get_parameters():
            clip_grad_by_total_norm_fp32(
                parameters,
                max_norm=part.config.clip_grad,
                total_norm=norm,
                use_decoupled_grad=part.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8,
            )
    optimizer.step_with_ready_grads()
