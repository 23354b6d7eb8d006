# SPDX-License-Identifier: Apache-2.0
"""The training loop: resume, measure the base, then step, measure, save until the last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megacpt.device import runtime as device_runtime
from megacpt.train.batches import read_batches
from megacpt.train.garbage import collecting_every
from megacpt.train.generate import generate
from megacpt.train.heldout import as_record, measure_all
from megacpt.train.journal import Journal
from megacpt.train.position import Position, resume, save
from megacpt.train.run import Run
from megacpt.train.step import StepResult, train_step

Record = dict[str, Any]


def start(run: Run) -> Position:
    """Where the run goes on from; called before the journal is opened at that step."""
    return resume(run.checkpoints, state=run.state, identity=run.identity)


def fit(run: Run, *, position: Position, journal: Journal | None) -> None:
    """Train from ``position`` to the last step."""
    if position.base_heldout is None:
        heldout = measure_heldout(run)
        position.base_heldout = heldout
        _write(journal, {"step": 0, "heldout": heldout, **spot_check(run, step=0)})
    peak_flops = device_runtime.peak_flops(run.config.precision)
    first_step = position.step + 1
    with (
        collecting_every(run.config.kernels.manual_gc_steps) as collect_garbage,
        read_batches(
            run.data, config=run.config, first_step=first_step, device=run.runtime.device
        ) as batches,
    ):
        for step in range(first_step, run.config.schedule.steps + 1):
            result = train_step(
                run.state,
                config=run.config,
                batches=batches,
                step=step,
                device=run.runtime.device,
            )
            advance(position, result=result, names=run.data.source_names)
            record = step_record(run, result=result, position=position, peak_flops=peak_flops)
            _write(journal, record | measurements(run, step=step, position=position))
            if is_due(
                step, every=run.config.checkpoint.every_steps, last=run.config.schedule.steps
            ):
                save_checkpoint(run, position=position)
            collect_garbage(step)


def measurements(run: Run, *, step: int, position: Position) -> Record:
    """What is due after ``step`` beside its loss: held-out losses, generations."""
    evaluate, record = run.config.evaluate, spot_check(run, step=step)
    if is_due(step, every=evaluate.every_steps, last=run.config.schedule.steps):
        record["heldout"] = measure_heldout(run)
        record |= forgetting(record, position=position, general=evaluate.general)
    return record


def _write(journal: Journal | None, record: Record) -> None:
    if journal is not None:
        journal.write(record)


def save_checkpoint(run: Run, *, position: Position) -> None:
    save(
        run.checkpoints,
        state=run.state,
        position=position,
        identity=run.identity,
        keep_last=run.config.checkpoint.keep_last,
    )


def is_due(step: int, *, every: int, last: int) -> bool:
    """Every ``every`` steps (never, if 0) and at the last one."""
    return step == last or (every > 0 and step % every == 0)


def advance(position: Position, *, result: StepResult, names: tuple[str, ...]) -> None:
    """Count the step and its tokens."""
    position.step += 1
    position.elapsed_s += result.step_s
    for name, tokens in zip(names, result.sums.tokens_N, strict=True):
        position.tokens_per_source[name] = position.tokens_per_source.get(name, 0) + tokens


def measure_heldout(run: Run) -> dict[str, dict[str, float]]:
    """Loss, perplexity and number of tokens of every held-out set."""
    losses = measure_all(
        run.state.chunks,
        run.heldout,
        micro_batch_size=run.config.data.micro_batch_size,
        device=run.runtime.device,
    )
    return as_record(losses)


def spot_check(run: Run, *, step: int) -> Record:
    """Generations from the prompt file, where there is one and they are due."""
    config = run.config
    due = is_due(step, every=config.evaluate.generate_every_steps, last=config.schedule.steps)
    if not run.prompts or not (due or step == 0):
        return {}
    generations = generate(
        run.state.chunks,
        run.prompts,
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
        "tokens_per_source": dict(position.tokens_per_source),
        "samples_per_source": result.account.samples_per_source,
        "grad_norm": result.grad_norm,
        "lr": result.lr,
        "tokens": sum(position.tokens_per_source.values()),
        "tokens_per_s": tokens_per_s,
        "mfu": tokens_per_s * flops_per_token / (peak_flops * run.runtime.ranks.world_size),
        "step_s": result.step_s,
        "data_wait_s": result.data_wait_s,
        "elapsed_s": position.elapsed_s,
        "peak_memory_gib": device_runtime.peak_memory_bytes() / 2**30,
        **stage_record(run, result=result, position=position),
    }


def stage_record(run: Run, *, result: StepResult, position: Position) -> Record:
    """The stage, once one has begun, and replay's part of all tokens so far, where there is any."""
    record: Record = {"sequence_length": result.account.sequence_length}
    if result.account.stage:
        record["stage"] = result.account.stage
    if run.config.data.replay is not None:
        tokens = position.tokens_per_source
        replayed = tokens.get(run.config.data.replay.source, 0)
        record["replay_share"] = replayed / max(sum(tokens.values()), 1)
    return record
