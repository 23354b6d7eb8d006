# SPDX-License-Identifier: Apache-2.0
"""Watches every step of a run: judges it before its update, and acts where it is at fault."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from megacpt.config.paths import RunFolder
from megacpt.monitor.metrics import FaultRecord, RankTimes
from megacpt.train.guard import faults
from megacpt.train.guard.faults import Fault
from megacpt.train.guard.samples import measure_samples, worst_samples
from megacpt.train.guard.straggler import gather
from megacpt.train.position import Position
from megacpt.train.run import Run
from megacpt.train.step import StepFacts


class Guard:
    """``accept`` each step; then ``fault`` says what was wrong with it, if anything."""

    def __init__(self, run: Run, *, position: Position) -> None:
        self._run, self.position = run, position
        self.fault: Fault | None = None
        self.rank_times: RankTimes | None = None

    def accept(self, facts: StepFacts) -> bool:
        """Whether the update is applied; a collective call with one answer."""
        run, state = self._run, self.position.faults
        gathered = gather(
            grad_norm=facts.grad_norm,
            compute_s=facts.data_wait_s + run.timers.stopwatch.total_s(),
            device=run.runtime.device,
        )
        run.timers.stopwatch.reset()
        if len(gathered.compute_s_R) > 1:
            self.rank_times = run.stragglers.add(gathered.compute_s_R)
        values = {"loss": facts.loss, "grad_norm": gathered.grad_norm}
        config, stage = run.config.faults, facts.account.stage
        self.fault = state.judge(**values, stage=stage, config=config)
        if self.fault is None:
            state.count_good(**values, stage=stage, window=config.spike_window_steps)
        return self.fault is None

    def act(self, fault: Fault, *, step: int) -> FaultRecord:
        """Name the samples to blame, decide, and put it on the disk; a collective call."""
        run, state = self._run, self.position.faults
        losses = measure_samples(run, step=step)
        run.timers.stopwatch.reset()
        event = faults.normal(
            state.decide(
                fault,
                step=step,
                restart_step=self.position.checkpoint_step,
                sources=samples_of(run, step=step),
                nonfinite_samples=losses.num_nonfinite,
                samples=worst_samples(run, losses=losses, step=step),
                config=run.config.faults,
            )
        )
        state.events.append(event)
        if run.runtime.ranks.rank == 0:
            faults.write_events(RunFolder(run.run_dir).faults, events=state.events)
        torch.distributed.barrier()
        return event


def samples_of(run: Run, *, step: int) -> Mapping[str, int]:
    """Samples of each source in global batch ``step`` (the first is 1)."""
    before, after = run.data.consumed_samples(step - 1), run.data.consumed_samples(step)
    return {name: n - before[name] for name, n in after.items() if n > before[name]}
