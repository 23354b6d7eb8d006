# SPDX-License-Identifier: Apache-2.0
"""This rank's part of every global batch, read ahead of the steps that need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core import parallel_state

from megacpt.model.microbatch import Microbatch, host_microbatch
from megacpt.plan.segments import at
from megacpt.samples.training_data import TrainingData
from megacpt.train.prefetch import Prefetcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Facts on a step's data beside its samples."""

    stage: str
    """The entry of ``data.stages`` the step is in; empty before the first one."""
    sequence_length: int
    samples_per_source: dict[str, int]
    """Counted over all steps up to and with this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    microbatches: list[Microbatch]
    """On the host."""
    account: Account


def read_batches(
    data: TrainingData, *, first_step: int, last_step: int, device: torch.device
) -> Prefetcher[StepBatch]:
    """Batches from ``first_step`` (the first is 1) on, ``data.prefetch_steps`` of them ahead."""
    dp_rank = parallel_state.get_data_parallel_rank()
    dp_size = parallel_state.get_data_parallel_world_size()
    settings = data.config

    def load(step: int) -> StepBatch:
        positions = rank_positions(
            data.batch_size(step - 1),
            micro_batch_size=settings.micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
        )
        batches = [data.load(step - 1, positions=p) for p in positions]
        masked = settings.document_mask
        return StepBatch(
            microbatches=[host_microbatch(b, document_mask=masked, device=device) for b in batches],
            account=Account(
                stage=at(data.segments, step=step - 1).name,
                sequence_length=data.sequence_length(step - 1),
                samples_per_source=data.consumed_samples(step),
            ),
        )

    return Prefetcher(load, first=first_step, last=last_step, num_ahead=settings.prefetch_steps)


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
