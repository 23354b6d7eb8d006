# SPDX-License-Identifier: Apache-2.0
"""The training loop: measure the base, then step, measure and save until the last step.

What a step at fault leads to is decided in megacpt.train.guard.faults, what is asked of the run
from outside in megacpt.train.requests; the loop obeys them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from megacpt.checkpoint.starts import Start
from megacpt.config.sections import CheckpointConfig, FaultPolicy, OptimConfig, ScheduleConfig
from megacpt.device import runtime
from megacpt.device.collective import from_first_rank
from megacpt.device.stopwatch import Stopwatch
from megacpt.errors import EndedOnRequest, Superseded
from megacpt.evaluate.measure import Record
from megacpt.model.layers.router import take_figures
from megacpt.monitor.metrics import FaultRecord
from megacpt.plan.learning_rate import learning_rate
from megacpt.samples.training_data import TrainingData
from megacpt.train.batches import StepBatch, read_batches
from megacpt.train.garbage import collecting_every
from megacpt.train.guard import faults
from megacpt.train.guard.faults import Fault
from megacpt.train.guard.guard import Guard
from megacpt.train.guard.retention import RetentionGuard
from megacpt.train.guard.samples import samples_of
from megacpt.train.guard.straggler import Stragglers, gather
from megacpt.train.position import Position
from megacpt.train.prefetch import Prefetcher
from megacpt.train.record import Journal, Recorder, StepResult, is_due
from megacpt.train.requests import Request, Requests
from megacpt.train.saves import Saves
from megacpt.train.state import TrainState
from megacpt.train.step import forward_backward, gradient_norm, update


@dataclass(slots=True, kw_only=True)
class Loop:
    """The parts that a step uses in turn; the loop alone moves the position."""

    state: TrainState
    data: TrainingData
    device: torch.device
    optim: OptimConfig
    schedule: ScheduleConfig
    checkpoint: CheckpointConfig
    gc_steps: int
    guard: Guard
    stopwatch: Stopwatch
    """Runs while this rank computes."""
    stragglers: Stragglers
    saves: Saves
    requests: Requests
    recorder: Recorder
    journal: Journal | None
    """On the first rank only."""
    base_record: Record | None
    """Step 0 of a run that begins with other weights than the base model's."""
    retention: RetentionGuard
    gate: str
    """Fingerprint of the gate that is declared now (megacpt.config.declared)."""
    beat: Callable[[str], None]
    start: Start
    """This start of the run; a rollback makes another."""
    restart: Callable[[], tuple[Start, Position]]
    """Model and optimizer as they were at the last checkpoint, for a rollback."""

    def run(self, position: Position) -> None:
        """Train from ``position`` to the last step, through rollbacks if need be."""
        while rollback := self.run_to_rollback(position):
            self.beat(f"rollback to step {rollback['restart_step']}")
            if self.journal is not None:
                self.journal.announce(rollback)
            self.start, position = self.restart()
            if self.journal is not None:
                self.journal.rewind(position.step, is_new=position.base_heldout is None)

    def run_to_rollback(self, position: Position) -> FaultRecord | None:
        """The fault that wants a rollback; None once the last step is done."""
        if position.base_heldout is None:
            record = self.base_record or self.recorder.base()
            position.base_heldout, position.gate = record["heldout"], self.gate
            self.write(record)
        first_step, last_step = position.step + 1, self.schedule.steps
        with (
            collecting_every(self.gc_steps) as collect_garbage,
            read_batches(
                self.data, first_step=first_step, last_step=last_step, device=self.device
            ) as batches,
        ):
            for step in range(first_step, last_step + 1):
                began_at = time.monotonic()
                self.beat(f"step {step}")
                if passing := position.faults.passing(step):
                    record = self.pass_over(batches, event=passing, position=position)
                else:
                    record, fault = self.take_step(batches, position=position)
                    if fault is not None and fault["policy"] == FaultPolicy.rollback.name:
                        return fault
                    if fault is not None and fault["policy"] == FaultPolicy.stop.name:
                        self.write(record)
                        raise faults.stop(fault, run_dir=self.guard.run_dir)
                self.beat(f"measurements after step {step}")
                record |= self.recorder.measurements(position=position)
                if (drop := self.retention.fault(record, step=position.step)) is not None:
                    self.write(record)
                    raise drop
                heldout = record.get("heldout")
                position.heldout = heldout and {name: x["loss"] for name, x in heldout.items()}
                self.end_step(record, position=position)
                self.requests.time_limit.count_step(time.monotonic() - began_at)
                self.saves.prepare()
                collect_garbage(step)
        return None

    def pass_over(
        self, batches: Prefetcher[StepBatch], *, event: FaultRecord, position: Position
    ) -> Record:
        """Leave the next step out, as the rollback ``event`` wants; its record."""
        position.step += 1
        step = position.step
        position.faults.count_skipped(samples_of(self.data, step=step))
        progress = self.recorder.progress(batches.take(step).account, position=position)
        record = {"step": step, "passed_over": True, **progress}
        return record | ({"fault": event} if event["step"] == step else {})

    def take_step(
        self, batches: Prefetcher[StepBatch], *, position: Position
    ) -> tuple[Record, FaultRecord | None]:
        """Take the next step; its record, and what was done about it where it was at fault."""
        step, past = position.step + 1, position.faults
        started_at = time.perf_counter()
        batch = batches.take(step)
        data_wait_s = time.perf_counter() - started_at
        sums = forward_backward(self.state, batch=batch, device=self.device)
        norm = gradient_norm(self.state.optimizer)
        # The update changes what the snapshot is taken of. What a step does before changes none of
        # it (it would, if experts had a bias that megatron-core moves with the gradients).
        settle_s = self.saves.settle()
        compute_s = data_wait_s + self.stopwatch.total_s()
        ranks = gather(grad_norm=norm, compute_s=compute_s, device=self.device)
        self.stopwatch.reset()
        times_R = ranks.compute_s_R
        values = {"loss": sums.mean_loss, "grad_norm": ranks.grad_norm}
        fault = self.guard.judge(past, **values, stage=batch.account.stage)
        lr = past.lr_factor(step) * learning_rate(step, optim=self.optim, schedule=self.schedule)
        if fault is None:
            update(self.state.optimizer, norm=norm, lr=lr, optim=self.optim)
        routing = take_figures(self.state.chunks)
        runtime.synchronize(self.device)
        result = StepResult(
            sums=sums,
            grad_norm=norm,
            lr=lr,
            account=batch.account,
            routing=routing,
            # The checkpoint's stall is in a figure of its own.
            step_s=time.perf_counter() - started_at - settle_s,
            data_wait_s=data_wait_s,
            rank_times=self.stragglers.add(times_R) if len(times_R) > 1 else None,
        )
        event = self.act(fault, position=position) if fault else None
        self.count(result, position=position, values=values if fault is None else None)
        record = self.recorder.step(result, position=position)
        return record | ({"fault": event} if event else {}), event

    def act(self, fault: Fault, *, position: Position) -> FaultRecord:
        """Decide what ``fault``, of the step that is being taken, leads to."""
        # Which checkpoint a rollback goes back to must not depend on how fast it is written.
        self.saves.finish(position)
        event = self.guard.act(
            fault,
            past=position.faults,
            step=position.step + 1,
            restart_step=position.checkpoint_step,
        )
        self.stopwatch.reset()
        return event

    def count(
        self, result: StepResult, *, position: Position, values: dict[str, float] | None
    ) -> None:
        """Count the step and its tokens, or the samples that it skips where ``values`` is None."""
        position.step += 1
        position.elapsed_s += result.step_s
        past = position.faults
        if values is None:
            past.count_skipped(samples_of(self.data, step=position.step))
            return
        window = self.guard.config.spike_window_steps
        past.count_good(**values, stage=result.account.stage, window=window)
        for name, tokens in zip(self.data.source_names, result.sums.tokens_N, strict=True):
            position.tokens_per_source[name] = position.tokens_per_source.get(name, 0) + tokens

    def end_step(self, record: Record, *, position: Position) -> None:
        """Agree on requests, log the step, save or stop if due."""
        decision = self.requests.agree(
            is_held=self.start.is_held, is_writing=self.saves.is_writing()
        )
        request, saves = decision.request, self.saves
        if request is Request.superseded:
            raise superseded(self.start)
        if not decision.is_writing:
            saves.finish(position)
        self.write(record)
        is_last = position.step == self.schedule.steps
        ends = is_last or request.exits
        due = is_due(position.step, every=self.checkpoint.every_steps, last=self.schedule.steps)
        if due or request.saves:
            saves.begin(position, start=self.start, must=ends)
        if ends or not self.checkpoint.asynchronous:
            saves.finish(position, must=ends)
        if request.exits and not is_last:
            raise ended(request, position=position, last_step=self.schedule.steps)

    def write(self, record: Record) -> None:
        if self.journal is not None:
            self.journal.write(record | self.saves.figures())


def superseded(start: Start) -> Superseded:
    """The error with the words of the first rank, which has seen the newer start."""

    def words() -> str:
        try:
            start.require_held()
        except Superseded as error:
            return str(error)
        return "another start of the run was seen; this one stops and writes nothing more."

    return Superseded(from_first_rank(words))


def ended(request: Request, *, position: Position, last_step: int) -> EndedOnRequest:
    done = "saved" if request.saves else "without saving"
    return EndedOnRequest(
        f"Ended after step {position.step} of {last_step}, {done}, because {request.reason}. The "
        f"newest checkpoint is of step {position.checkpoint_step}: start the same command again to "
        "go on from it."
    )
