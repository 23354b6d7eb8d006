# SPDX-License-Identifier: Apache-2.0
"""Watches every step of a run: judges it before its update, and acts where it is at fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from megacpt.config.paths import RunFolder
from megacpt.config.sections import FaultsConfig
from megacpt.monitor.metrics import FaultRecord
from megacpt.samples.training_data import TrainingData
from megacpt.tokenizer import Tokenizer
from megacpt.train.guard import faults
from megacpt.train.guard.faults import Fault, FaultState
from megacpt.train.guard.samples import measure_samples, samples_of, worst_samples
from megacpt.train.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    config: FaultsConfig
    state: TrainState
    data: TrainingData
    tokenizer: Tokenizer
    device: torch.device
    run_dir: str

    def judge(self, past: FaultState, *, loss: float, grad_norm: float, stage: str) -> Fault | None:
        """Whether the update may be applied: None where it may."""
        return past.judge(loss=loss, grad_norm=grad_norm, stage=stage, config=self.config)

    def act(self, fault: Fault, *, past: FaultState, step: int, restart_step: int) -> FaultRecord:
        """Name the samples to blame, decide, and put it on the disk; a collective call.

        ``restart_step``: where a rollback would go back to.
        """
        losses = measure_samples(self.state.chunks, data=self.data, step=step, device=self.device)
        event = faults.normal(
            past.decide(
                fault,
                step=step,
                restart_step=restart_step,
                sources=samples_of(self.data, step=step),
                nonfinite_samples=losses.num_nonfinite,
                samples=worst_samples(
                    losses,
                    data=self.data,
                    step=step,
                    tokenizer=self.tokenizer,
                    excerpt_tokens=self.config.excerpt_tokens,
                ),
                config=self.config,
            )
        )
        past.events.append(event)
        if torch.distributed.get_rank() == 0:
            faults.write_events(RunFolder(Path(self.run_dir)).faults, events=past.events)
        torch.distributed.barrier()
        return event
