# SPDX-License-Identifier: Apache-2.0
"""The records of a run, and where they go: RUN_DIR/metrics.jsonl, the terminal, wandb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megacpt.config.sections import EvaluateConfig, MonitorConfig
from megacpt.device import runtime
from megacpt.device.environment import beginning_with, has_secret
from megacpt.evaluate.measure import Measure, Record
from megacpt.families.architecture import Architecture
from megacpt.families.counts import training_flops_per_token
from megacpt.model.forward import LossSums
from megacpt.model.layers.router import RoutingFigures
from megacpt.monitor.metrics import FaultRecord, MetricsLog, RankTimes, StepRecord
from megacpt.monitor.terminal import Terminal
from megacpt.monitor.wandb import WandbRun
from megacpt.samples.training_data import TrainingData
from megacpt.train.batches import Account
from megacpt.train.position import Position
from megacpt.train.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The outcome of a step: the same on every rank, but for the seconds."""

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
    rank_times: RankTimes | None
    """``None``: there is one rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Makes the records."""

    state: TrainState
    data: TrainingData
    architecture: Architecture
    peak_flops: float
    """Sum over all ranks."""
    evaluate: EvaluateConfig
    measure: Measure
    last_step: int

    def base(self) -> Record:
        """The record of step 0, while the weights are the base model's."""
        return self.measure.base_record(self.state.chunks)

    def step(self, result: StepResult, *, position: Position) -> Record:
        """One line of metrics.jsonl."""
        sums = result.sums
        tokens_per_s = sums.tokens / result.step_s
        flops_per_token = training_flops_per_token(
            self.architecture, sequence_length=result.account.sequence_length
        )
        per_source = zip(self.data.source_names, sums.loss_N, sums.tokens_N, strict=True)
        record = {
            "step": position.step,
            "loss": sums.mean_loss,
            "loss_per_source": {name: loss / n for name, loss, n in per_source if n},
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "tokens_per_s": tokens_per_s,
            "mfu": tokens_per_s * flops_per_token / self.peak_flops,
            "step_s": result.step_s,
            "data_wait_s": result.data_wait_s,
            "peak_memory_gib": runtime.peak_memory_bytes() / 2**30,
            **routing_record(result.routing),
            **self.progress(result.account, position=position),
        }
        return record | ({"rank_times": result.rank_times} if result.rank_times else {})

    def progress(self, account: Account, *, position: Position) -> Record:
        """How far the run is; stage, replay and skipped samples where there are any."""
        skipped, tokens = position.faults.skipped_samples, position.tokens_per_source
        drawn, replay = account.samples_per_source, self.data.config.replay
        record: Record = {
            "tokens_per_source": dict(tokens),
            "samples_per_source": {name: n - skipped.get(name, 0) for name, n in drawn.items()},
            "tokens": sum(tokens.values()),
            "elapsed_s": position.elapsed_s,
            "sequence_length": account.sequence_length,
        }
        if skipped:
            record["skipped_samples_per_source"] = dict(skipped)
        if account.stage:
            record["stage"] = account.stage
        if replay is not None:
            replayed = tokens.get(replay.source, 0)
            record["replay_share"] = replayed / max(sum(tokens.values()), 1)
        return record

    def measurements(self, *, position: Position) -> Record:
        """Measure what is due after a step: generations, held-out losses, forgetting."""
        step, chunks = position.step, self.state.chunks
        record: Record = {}
        generate_every = self.evaluate.generate_every_steps
        if self.measure.prompts and is_due(step, every=generate_every, last=self.last_step):
            record["generations"] = self.measure.generations(chunks)
        if is_due(step, every=self.evaluate.every_steps, last=self.last_step):
            record["heldout"] = self.measure.losses(chunks)
            general, base = self.evaluate.general, position.base_heldout
            if general is not None and base is not None:
                loss = record["heldout"][general]["loss"]
                record["forgetting"] = loss - base[general]["loss"]
        return record | self.measure.benchmarks(chunks, step=step)


def is_due(step: int, *, every: int, last: int) -> bool:
    """Every ``every`` steps (never, if 0) and at the last one."""
    return step == last or (every > 0 and step % every == 0)


def routing_record(routing: RoutingFigures | None) -> Record:
    """How evenly the router of a model with experts has dealt the step's tokens."""
    if routing is None:
        return {}
    return {
        "router_balance_loss": routing.balance_loss,
        "router_busiest_expert": routing.busiest_expert,
        "router_idle_experts": routing.idle_experts,
    }


class Journal:
    """Writes the records; opened on the first rank only, at the step the run goes on from."""

    def __init__(
        self,
        run_dir: Path,
        *,
        resolved: Mapping[str, Any],
        arithmetic: str,
        quantises: bool,
        adapter: str | None,
        steps: int,
        monitor: MonitorConfig,
        start_step: int,
        is_new: bool,
    ) -> None:
        """``arithmetic``: the precision in words (megacpt.plan.precision), ``adapter``: that what
        is trained is one (megacpt.plan.adapters).

        ``is_new``: the first model is measured (again), so no record is kept.
        """
        self._path = run_dir / "metrics.jsonl"
        self._log = _open_log(self._path, step=start_step, is_new=is_new)
        self._label = {"arithmetic": arithmetic} if quantises else {}
        self._progress = Terminal(
            steps,
            log_every_steps=monitor.log_every_steps,
            start_step=start_step,
            base=self._log.kept[0] if self._log.kept else None,
            title="; ".join(filter(None, (self._label.get("arithmetic"), adapter))) or None,
        )
        self._wandb = WandbRun.start(
            run_dir,
            config={**resolved, "arithmetic": arithmetic, "trained": adapter or "all weights"},
            monitor=monitor,
            has_api_key=has_secret("WANDB_API_KEY"),
            records=self._log.kept,
            variables=beginning_with("WANDB_"),
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """The file first: it is what a report and a resume are made from."""
        step_record = cast(StepRecord, {**record, **self._label})
        self._log.log(step_record)
        self._progress.update(step_record)
        self._wandb.log(step_record)

    def announce(self, event: FaultRecord) -> None:
        """A rollback begins; its record comes when the run is there again."""
        self._progress.announce(event)

    def rewind(self, step: int, *, is_new: bool) -> None:
        """Go on from an earlier ``step``; wandb keeps what it has."""
        self._log.close()
        self._log = _open_log(self._path, step=step, is_new=is_new)
        self._progress.rewind(step)

    def close(self, *, failed: bool) -> None:
        self._progress.close()
        self._log.close()
        self._wandb.finish(exit_code=1 if failed else 0)


def _open_log(path: Path, *, step: int, is_new: bool) -> MetricsLog:
    return MetricsLog(path, resume_after_step=None if is_new else step)
