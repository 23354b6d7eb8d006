# SPDX-License-Identifier: Apache-2.0
"""The training loop: resume, measure the base, then step, measure, save until the last step.

What a step at fault leads to is megacpt.train.guard.faults's, what the run is asked from outside
megacpt.train.requests's; the loop obeys them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from megacpt.config.sections import FaultPolicy
from megacpt.device import runtime as device_runtime
from megacpt.device.collective import from_first_rank
from megacpt.errors import EndedOnRequest, Superseded
from megacpt.evaluate.base import first_record
from megacpt.evaluate.generate import generate
from megacpt.evaluate.heldout import as_record, measure_all
from megacpt.monitor.metrics import FaultRecord
from megacpt.train import warm_start
from megacpt.train.batches import Account, StepBatch, read_batches
from megacpt.train.garbage import collecting_every
from megacpt.train.guard import faults
from megacpt.train.guard.guard import Guard, samples_of
from megacpt.train.journal import Journal
from megacpt.train.position import Position, resume
from megacpt.train.prefetch import Prefetcher
from megacpt.train.requests import Decision, Request, Requests, open_requests
from megacpt.train.run import Run, rebuild
from megacpt.train.saves import Saves
from megacpt.train.step import StepFacts, StepResult, train_step

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Where the results of a step go, and who may ask for an end."""

    journal: Journal | None
    """On the first rank only."""
    saves: Saves
    requests: Requests

    def write(self, record: Record) -> None:
        if self.journal is not None:
            self.journal.write(record | self.saves.figures())


def start(run: Run) -> Position:
    """Where the run goes on from; called before the journal is opened at that step."""
    return resume(
        run.run_dir,
        state=run.state,
        identity=run.identity,
        origin=run.origin,
        begin=lambda: warm_start.begin(run.source, state=run.state) if run.source else Position(),
    )


def fit(run: Run, *, position: Position, journal: Journal | None) -> None:
    """Train from ``position`` to the last step, through rollbacks if need be."""
    peak_flops = device_runtime.peak_flops(run.config.precision)
    with open_requests(run.config, device=run.runtime.device) as requests:
        saves = Saves(run, count_seconds=requests.time_limit.count_save)
        requests.when_asked = saves.hurry
        outlets = Outlets(journal=journal, saves=saves, requests=requests)
        while rollback := train_to_rollback(
            run, position=position, outlets=outlets, peak_flops=peak_flops
        ):
            run.beat(f"rollback to step {rollback['restart_step']}")
            if journal is not None:
                journal.announce(rollback)
            rebuild(run)
            position = start(run)
            if journal is not None:
                journal.rewind(position.step, is_new=position.base_heldout is None)


def train_to_rollback(
    run: Run, *, position: Position, outlets: Outlets, peak_flops: float
) -> FaultRecord | None:
    """The fault that wants a rollback; None once the last step is done."""
    config, guard = run.config, Guard(run, position=position)
    if position.base_heldout is None:
        record = run.base_record or base_record(run)
        position.base_heldout = record["heldout"]
        outlets.write(record)
    first_step, last_step = position.step + 1, config.schedule.steps
    with (
        collecting_every(config.kernels.manual_gc_steps) as collect_garbage,
        read_batches(
            run.data, config=config, first_step=first_step, device=run.runtime.device
        ) as batches,
    ):
        for step in range(first_step, last_step + 1):
            began_at = time.monotonic()
            run.beat(f"step {step}")
            record = take_step(
                run, guard=guard, batches=batches, peak_flops=peak_flops, saves=outlets.saves
            )
            event = None if "passed_over" in record else record.get("fault")
            if event is not None and event["policy"] == FaultPolicy.rollback.name:
                return cast(FaultRecord, event)
            if event is not None and event["policy"] == FaultPolicy.stop.name:
                outlets.write(record)
                raise faults.stop(event, run_dir=config.run_dir)
            run.beat(f"measurements after step {step}")
            record |= measurements(run, step=step, position=position)
            end_step(run, record=record, position=position, outlets=outlets)
            outlets.requests.time_limit.count_step(time.monotonic() - began_at)
            outlets.saves.prepare()
            collect_garbage(step)
    return None


def end_step(run: Run, *, record: Record, position: Position, outlets: Outlets) -> None:
    """Hear what is asked of the run, write the record, save where it is due, end where it must."""
    saves = outlets.saves
    decision = outlets.requests.agree(
        is_held=run.origin.start.is_held, is_writing=saves.is_writing()
    )
    if decision.request is Request.superseded:
        raise superseded(run)
    if not decision.is_writing:
        saves.finish(position)
    outlets.write(record)
    is_last = position.step == run.config.schedule.steps
    ends = is_last or decision.request.exits
    due = is_due(
        position.step, every=run.config.checkpoint.every_steps, last=run.config.schedule.steps
    )
    if due or decision.request.saves:
        saves.begin(position, must=ends)
    if ends or not run.config.checkpoint.asynchronous:
        saves.finish(position, must=ends)
    if decision.request.exits and not is_last:
        raise ended(run, decision=decision, position=position)


def superseded(run: Run) -> Superseded:
    """With the words of the first rank, which has seen the newer start."""

    def words() -> str:
        try:
            run.origin.start.require_held()
        except Superseded as error:
            return str(error)
        return "another start of the run was seen; this one stops and writes nothing more."

    return Superseded(from_first_rank(words))


def ended(run: Run, *, decision: Decision, position: Position) -> EndedOnRequest:
    steps = f"step {position.step} of {run.config.schedule.steps}"
    done = "without saving" if not decision.request.saves else "saved"
    return EndedOnRequest(
        f"Ended after {steps}, {done}, because {decision.request.reason}. The newest checkpoint is "
        f"of step {position.checkpoint_step}: start the same command again to go on from it."
    )


def take_step(
    run: Run,
    *,
    guard: Guard,
    batches: Prefetcher[StepBatch],
    peak_flops: float,
    saves: Saves,
) -> Record:
    """The next step, or nothing where a rollback wants it passed over; its record."""
    position = guard.position
    step = position.step + 1
    if event := position.faults.passing(step):
        position.step = step
        position.faults.count_skipped(samples_of(run, step=step))
        account = batches.take(step).account
        progress = progress_record(run, account=account, position=position)
        record = {"step": step, "passed_over": True, **progress}
        return record | ({"fault": event} if event["step"] == step else {})

    settle_s = 0.0

    def accept(facts: StepFacts) -> bool:
        # The update changes what the snapshot is taken of. What a step does before changes none of
        # it (it would, if experts had a bias that megatron-core moves with the gradients).
        nonlocal settle_s
        settle_s = saves.settle()
        return guard.accept(facts)

    result = train_step(
        run.state,
        config=run.config,
        batches=batches,
        step=step,
        device=run.runtime.device,
        lr_factor=position.faults.lr_factor(step),
        accept=accept,
    )
    # It is in the stall.
    result = replace(result, step_s=result.step_s - settle_s)
    event = None
    if guard.fault:
        # Which checkpoint a rollback goes back to must not depend on how fast it is written.
        saves.finish(position)
        event = guard.act(guard.fault, step=step)
    advance(run, position=position, result=result, is_good=event is None)
    record = step_record(run, result=result, position=position, peak_flops=peak_flops)
    if guard.rank_times is not None:
        record["rank_times"] = guard.rank_times
    return record | ({"fault": event} if event else {})


def measurements(run: Run, *, step: int, position: Position) -> Record:
    """What is due after ``step`` beside its loss: held-out losses, generations."""
    evaluate, record = run.config.evaluate, spot_check(run, step=step)
    position.heldout = None
    if is_due(step, every=evaluate.every_steps, last=run.config.schedule.steps):
        record["heldout"] = measure_heldout(run)
        record |= forgetting(record, position=position, general=evaluate.general)
        position.heldout = {name: found["loss"] for name, found in record["heldout"].items()}
    return record


def is_due(step: int, *, every: int, last: int) -> bool:
    """Every ``every`` steps (never, if 0) and at the last one."""
    return step == last or (every > 0 and step % every == 0)


def advance(run: Run, *, position: Position, result: StepResult, is_good: bool) -> None:
    """Count the step and its tokens, or those it has skipped."""
    position.step += 1
    position.elapsed_s += result.step_s
    if not is_good:
        position.faults.count_skipped(samples_of(run, step=position.step))
        return
    for name, tokens in zip(run.data.source_names, result.sums.tokens_N, strict=True):
        position.tokens_per_source[name] = position.tokens_per_source.get(name, 0) + tokens


def measure_heldout(run: Run) -> dict[str, dict[str, float]]:
    """Loss, perplexity and number of tokens of every held-out set."""
    losses = measure_all(
        run.state.chunks,
        sets=run.heldout,
        micro_batch_size=run.config.data.micro_batch_size,
        device=run.runtime.device,
    )
    return as_record(losses)


def base_record(run: Run) -> Record:
    """Of a run whose weights are still the base model's."""
    return first_record(
        run.state.chunks,
        config=run.config,
        heldout=run.heldout,
        prompts=run.prompts,
        tokenizer=run.tokenizer,
    )


def spot_check(run: Run, *, step: int) -> Record:
    """Generations from the prompt file, where there is one and they are due."""
    config = run.config
    due = is_due(step, every=config.evaluate.generate_every_steps, last=config.schedule.steps)
    if not run.prompts or not due:
        return {}
    generations = generate(
        run.state.chunks,
        prompts=run.prompts,
        tokenizer=run.tokenizer,
        max_new_tokens=config.evaluate.max_new_tokens,
        sequence_length=config.data.sequence_length,
        device=run.runtime.device,
    )
    return {"generations": generations}


def forgetting(record: Mapping[str, Any], *, position: Position, general: str | None) -> Record:
    """General loss minus the base model's, in nats a token; nothing where no set is general."""
    if general is None or position.base_heldout is None:
        return {}
    base_loss = position.base_heldout[general]["loss"]
    return {"forgetting": record["heldout"][general]["loss"] - base_loss}


def step_record(run: Run, *, result: StepResult, position: Position, peak_flops: float) -> Record:
    """One line of metrics.jsonl."""
    sums, names = result.sums, run.data.source_names
    tokens_per_s = sums.tokens / result.step_s
    flops_per_token = run.architecture.training_flops_per_token(
        sequence_length=result.account.sequence_length
    )
    per_source = zip(names, sums.loss_N, sums.tokens_N, strict=True)
    return {
        "step": position.step,
        "loss": sums.mean_loss,
        "loss_per_source": {name: loss / n for name, loss, n in per_source if n},
        "grad_norm": result.grad_norm,
        "lr": result.lr,
        "tokens_per_s": tokens_per_s,
        "mfu": tokens_per_s * flops_per_token / (peak_flops * run.runtime.ranks.world_size),
        "step_s": result.step_s,
        "data_wait_s": result.data_wait_s,
        "peak_memory_gib": device_runtime.peak_memory_bytes() / 2**30,
        **routing_record(result),
        **progress_record(run, account=result.account, position=position),
    }


def routing_record(result: StepResult) -> Record:
    """How evenly the router of a model with experts has dealt the step's tokens."""
    routing = result.routing
    if routing is None:
        return {}
    return {
        "router_balance_loss": routing.balance_loss,
        "router_busiest_expert": routing.busiest_expert,
        "router_idle_experts": routing.idle_experts,
    }


def progress_record(run: Run, *, account: Account, position: Position) -> Record:
    """How far the run is; stage, replay and skipped samples where there are any."""
    skipped = position.faults.skipped_samples
    drawn = account.samples_per_source
    record: Record = {
        "tokens_per_source": dict(position.tokens_per_source),
        "samples_per_source": {name: n - skipped.get(name, 0) for name, n in drawn.items()},
        "tokens": sum(position.tokens_per_source.values()),
        "elapsed_s": position.elapsed_s,
        "sequence_length": account.sequence_length,
    }
    if skipped:
        record["skipped_samples_per_source"] = dict(skipped)
    if account.stage:
        record["stage"] = account.stage
    if run.config.data.replay is not None:
        tokens = position.tokens_per_source
        replayed = tokens.get(run.config.data.replay.source, 0)
        record["replay_share"] = replayed / max(sum(tokens.values()), 1)
    return record
