# SPDX-License-Identifier: Apache-2.0
"""Build the parts of a run on one rank, and set its loop going; here alone all of the configuration
is known."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint.base_checkpoint import (
    BaseCheckpoint,
    UpdateSettings,
    find,
    require_fit,
    sentences,
)
from megacpt.checkpoint.choose import Origin, claim_origin, damage
from megacpt.checkpoint.retention import loss_of, retention_of
from megacpt.checkpoint.starts import Start
from megacpt.checkpoint.state import barrier, load_model
from megacpt.checkpoint.writer import pace, process
from megacpt.checkpoint.writer.process import Background
from megacpt.config.declared import gate_fingerprint
from megacpt.config.paths import RunFolder, heldout_shards, source_shards
from megacpt.config.schema import to_tree
from megacpt.config.sections import DeviceKind, Init, Objective, RunConfig
from megacpt.convert.adapters.native import begin_with, merge_into
from megacpt.device import variables
from megacpt.device.collective import from_first_rank
from megacpt.device.groups import initialise_parallel
from megacpt.device.runtime import Runtime, peak_flops, peak_name, rng_state, set_rng_state
from megacpt.device.stopwatch import Stopwatch
from megacpt.device.timers import Timers
from megacpt.errors import CheckpointError, EndedOnRequest, Superseded, TrainingFault
from megacpt.evaluate.benchmarks.suites import Suites
from megacpt.evaluate.heldout import open_heldout
from megacpt.evaluate.measure import Measure, Record
from megacpt.evaluate.run import base_chunks, evaluate
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.stored.fingerprint import base_of_run
from megacpt.families.targets import architecture_of_run
from megacpt.model import health
from megacpt.model.chunks import build_chunks
from megacpt.model.kernels import resolved, start_communication_overlap
from megacpt.monitor.environment import write_environment
from megacpt.plan.adapters import adapter_sentence
from megacpt.plan.precision import precision_name, quantises
from megacpt.plan.rules.data import longest
from megacpt.samples.training_data import TrainingData
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.train.guard.guard import Guard
from megacpt.train.guard.retention import RetentionGuard
from megacpt.train.guard.straggler import Stragglers
from megacpt.train.guard.watchdog import Watchdog
from megacpt.train.loop import Loop
from megacpt.train.position import Identity, Position, resume
from megacpt.train.record import Journal, Recorder
from megacpt.train.requests import Requests, time_limit
from megacpt.train.saves import Saves
from megacpt.train.state import TrainState, wrap_for_training

logger = logging.getLogger(__name__)
Beat = Callable[[str | None], None]
"""Sign of life: a new activity, or None to repeat the last."""


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a rank builds before its first step."""

    config: RunConfig
    runtime: Runtime
    architecture: Architecture
    tokenizer: Tokenizer
    measure: Measure
    data: TrainingData
    origin: Origin
    """This start of the run and the checkpoint it begins with; a rollback makes another."""
    base_checkpoint: BaseCheckpoint | None
    """The other run's checkpoint that it begins with while it has none of its own."""
    base_record: Record | None
    """Step 0 of a run that begins with other weights than the base model's."""
    base_fingerprint: str | None
    """Of the weights that an adapter is trained beside."""
    state: TrainState
    first_rng: dict[str, torch.Tensor]
    """The generators' state of a run that begins."""
    timers: Timers
    beat: Beat

    @property
    def run_dir(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def identity(self) -> Identity:
        return Identity(
            architecture=self.architecture,
            parallel=self.config.parallel,
            data=self.data,
            base=self.base_fingerprint,
            model=self.config.model.path,
        )


def run_mode(mode: str, *, config: RunConfig, runtime: Runtime, watchdog: Watchdog) -> None:
    """``train``, the same as ``take_over`` from a start that is at work, or ``evaluate`` base and
    newest checkpoint."""
    if mode in ("train", "take_over"):
        train(config, runtime=runtime, watchdog=watchdog, take_over=mode == "take_over")
    else:
        evaluate(config, runtime=runtime, watched=watchdog, beat=watchdog.beat)


def train(
    config: RunConfig, *, runtime: Runtime, watchdog: Watchdog, take_over: bool = False
) -> None:
    """Train, or go on training, to the last step."""
    initialise_parallel(config.parallel, seed=config.seed)
    _start_overlap(config, runtime=runtime)
    cores = pace.CORES if runtime.kind is DeviceKind.cpu else 1.0
    with process.started(wanted=config.checkpoint.asynchronous, cores=cores) as writer:
        parts = assemble(config, runtime=runtime, beat=watchdog.beat, take_over=take_over)
        position = find_position(parts)
        journal = open_journal(parts, position=position) if runtime.ranks.rank == 0 else None
        try:
            with watchdog:
                fit(parts, position=position, journal=journal, writer=writer)
        except (TrainingFault, EndedOnRequest, Superseded):
            # All ranks raise it at once: none may end the run before the first has closed its
            # journal.
            barrier()
            raise


def assemble(
    config: RunConfig,
    *,
    runtime: Runtime,
    beat: Beat = lambda activity: None,
    take_over: bool = False,
) -> Parts:
    """Build all parts; megacpt.device.groups.initialise_parallel comes before."""
    base = Path(str(config.model.path))
    architecture = architecture_of_run(config.model, adapter=config.adapter)
    tokenizer = load_tokenizer(base)
    origin = claim_origin(Path(config.run_dir), take_over=take_over)
    base_checkpoint = None if origin.folder else _base_checkpoint(config, architecture=architecture)
    if runtime.ranks.rank == 0 and origin.folder is None:
        _check_health(config, architecture=architecture, tokenizer=tokenizer)
    timers = Timers(Stopwatch(runtime.device), beat=lambda: beat(None))
    measure = _measure(config, runtime=runtime, architecture=architecture, tokenizer=tokenizer)
    base_record = None
    begins_elsewhere = config.adapter is not None and config.adapter.load_from is not None
    begins_elsewhere |= base_checkpoint is not None and base_checkpoint.load.weights
    if origin.folder is None and begins_elsewhere:
        chunks = base_chunks(config, architecture=architecture, runtime=runtime, timers=timers)
        base_record = measure.base_record(chunks)
        del chunks
        gc.collect()
    state = _build_state(
        config,
        architecture=architecture,
        runtime=runtime,
        timers=timers,
        base=base_checkpoint,
        begins=origin.folder is None,
    )
    return Parts(
        config=config,
        runtime=runtime,
        architecture=architecture,
        tokenizer=tokenizer,
        measure=measure,
        data=_data(config, architecture=architecture, origin=origin, base=base_checkpoint),
        origin=origin,
        base_checkpoint=base_checkpoint,
        base_record=base_record,
        base_fingerprint=from_first_rank(lambda: _base_of(config)),
        state=state,
        first_rng=rng_state(),
        timers=timers,
        beat=beat,
    )


def _base_of(config: RunConfig) -> str | None:
    return base_of_run(config.model, adapter=config.adapter is not None)


def _data(
    config: RunConfig, *, architecture: Architecture, origin: Origin, base: BaseCheckpoint | None
) -> TrainingData:
    record = base.data_record(config.data, seed=config.seed) if base else origin.data
    return TrainingData.open(
        config.data,
        seed=config.seed,
        shards=source_shards(config),
        vocab_size=architecture.vocab_size,
        steps=config.schedule.steps,
        record=record,
        replies_only=config.objective is Objective.sft,
    )


def _base_checkpoint(config: RunConfig, *, architecture: Architecture) -> BaseCheckpoint | None:
    """The checkpoint of another run to begin with, every byte of it read; a collective call."""
    if config.checkpoint.load_from is None:
        return None
    base = from_first_rank(lambda: find(config.checkpoint, run_dir=Path(config.run_dir)))
    if base is None:
        return None
    settings = UpdateSettings(
        optim=config.optim, schedule=config.schedule, dtype=config.precision.dtype
    )
    require_fit(
        base,
        architecture=architecture,
        settings=settings,
        new_rope=config.model.rope is not None,
    )
    if problem := damage(base.folder, manifest=base.manifest):
        raise CheckpointError(
            f"checkpoint.load_from={config.checkpoint.load_from}: {base.folder} is damaged: "
            f"{problem}; name another checkpoint of that run."
        )
    if torch.distributed.get_rank() == 0:
        for sentence in sentences(base, settings=settings, architecture=architecture):
            logger.info("%s", sentence)
    return base


def _check_health(config: RunConfig, *, architecture: Architecture, tokenizer: Tokenizer) -> None:
    """Look at the base model before its weights are used, once in a run's life."""
    if config.model.init is Init.random:
        return
    base = Path(str(config.model.path))
    findings = health.check(base, architecture=architecture, tokenizer=tokenizer)
    health.require_healthy(findings, folder=base, allow_unhealthy=config.model.allow_unhealthy)
    for finding in findings:
        logger.info("model: %s", finding)


def _measure(
    config: RunConfig, *, runtime: Runtime, architecture: Architecture, tokenizer: Tokenizer
) -> Measure:
    data, path = config.data, config.evaluate.prompts
    lines = Path(path).read_text(encoding="utf-8").splitlines() if path is not None else []
    return Measure(
        heldout=open_heldout(
            config.evaluate,
            data=data,
            shards=heldout_shards(config),
            vocab_size=architecture.vocab_size,
        ),
        prompts=[line for line in lines if line.strip()],
        tokenizer=tokenizer,
        micro_batch_size=data.micro_batch_size,
        sequence_length=data.sequence_length,
        max_new_tokens=config.evaluate.max_new_tokens,
        repetition_penalty=config.evaluate.repetition_penalty,
        suites=_suites(config, runtime=runtime, architecture=architecture, tokenizer=tokenizer),
    )


def _suites(
    config: RunConfig, *, runtime: Runtime, architecture: Architecture, tokenizer: Tokenizer
) -> Suites:
    """Those that are measured in training."""
    benchmarks = config.evaluate.benchmarks
    wanted = {name: each for name, each in benchmarks.items() if each.every_steps > 0}
    return Suites.open(
        replace(config.evaluate, benchmarks=wanted),
        run_dir=Path(config.run_dir),
        tokenizer=tokenizer,
        max_length=architecture.max_positions,
        arithmetic=precision_name(config.precision, emulated=runtime.kind is not DeviceKind.gpu),
    )


def _build_state(
    config: RunConfig,
    *,
    architecture: Architecture,
    runtime: Runtime,
    timers: Timers,
    base: BaseCheckpoint | None,
    begins: bool,
) -> TrainState:
    """``begins``: the run has no checkpoint of its own, which would fill an adapter."""
    folder = Path(str(config.model.path))
    chunks = build_chunks(
        config,
        architecture=architecture,
        runtime=runtime,
        base_folder=folder,
        starts_adapter=begins,
    )
    if begins and config.adapter is not None and config.adapter.load_from is not None:
        begin_with(
            chunks,
            folder=Path(config.adapter.load_from),
            base=folder,
            architecture=architecture,
        )
    if base is not None and base.load.weights and not base.load.optimizer:
        # Before an optimizer makes its masters of them.
        if base.graduates(architecture):
            merge_into(
                chunks, checkpoint=base.folder, base_folder=folder, architecture=architecture
            )
        else:
            load_model(base.folder, chunks=chunks)
    state = wrap_for_training(
        chunks,
        parallel=config.parallel,
        precision=config.precision,
        optim=config.optim,
        device=runtime.device,
        adapter=config.adapter,
    )
    state.transformer.timers = timers
    return state


def _start_overlap(config: RunConfig, *, runtime: Runtime) -> None:
    """Make the buffers that the model's layers look for, once a process."""
    if runtime.device.type == "cpu" or not config.kernels.tp_comm_overlap:
        return
    tokens = longest(config.data) * config.data.micro_batch_size
    start_communication_overlap(
        tokens=tokens // config.parallel.cp,
        hidden_size=read_architecture(Path(str(config.model.path))).hidden_size,
        parallel=config.parallel,
        precision=config.precision,
    )


def find_position(parts: Parts) -> Position:
    """Step and counts that the run goes on from; weights and optimizer are filled accordingly."""
    return resume(
        parts.run_dir,
        state=parts.state,
        identity=parts.identity,
        origin=parts.origin,
        base=parts.base_checkpoint,
    )


def open_journal(parts: Parts, *, position: Position) -> Journal:
    """The journal from ``position`` on, and RUN_DIR/environment.json; on the first rank."""
    config, runtime = parts.config, parts.runtime
    # Without a GPU the recipe is an emulation, and is called one.
    emulated = runtime.kind is not DeviceKind.gpu
    arithmetic = precision_name(config.precision, emulated=emulated)
    adapter = adapter_sentence(parts.architecture)
    journal = Journal(
        parts.run_dir,
        resolved=to_tree(config),
        arithmetic=arithmetic,
        quantises=quantises(config.precision),
        adapter=adapter,
        steps=config.schedule.steps,
        monitor=config.monitor,
        start_step=position.step,
        is_new=position.base_heldout is None,
    )
    known = variables.record(config, kind=runtime.kind)
    write_environment(
        parts.run_dir,
        device=str(runtime.device),
        ranks=runtime.ranks.world_size,
        settings={
            "kernels": resolved(parts.state.transformer),
            "variables": {n: {"value": v.value, "set_by": v.set_by} for n, v in known.items()},
            "mfu_of": peak_name(config.precision),
            "arithmetic": arithmetic,
            **({"adapter": adapter} if adapter else {}),
        },
    )
    return journal


def fit(
    parts: Parts,
    *,
    position: Position,
    journal: Journal | None,
    writer: Background[Any] | None = None,
) -> None:
    """Train from ``position`` to the last step, then close ``journal``.

    ``writer``: writes checkpoints beside training; None: training waits for them.
    """
    config, device = parts.config, parts.runtime.device
    limit = time_limit(
        config.cluster.time_limit_minutes, margin_s=config.checkpoint.save_before_end_s
    )
    requests = Requests(file=RunFolder(parts.run_dir).request, time_limit=limit, device=device)
    saves = Saves(
        parts.state,
        folder=parts.run_dir / "checkpoints",
        identity=parts.identity,
        retention=retention_of(config.checkpoint, best_of=loss_of(config.evaluate)),
        on_error=config.checkpoint.on_error,
        writer=writer,
        beat=parts.beat,
        count_seconds=limit.count_save,
    )
    requests.when_asked = saves.hurry
    failed = True
    try:
        loop = _loop(parts, saves=saves, requests=requests, journal=journal)
        with requests:
            loop.run(position)
        failed = False
    finally:
        if journal is not None:
            journal.close(failed=failed)


def _loop(parts: Parts, *, saves: Saves, requests: Requests, journal: Journal | None) -> Loop:
    config, runtime = parts.config, parts.runtime
    return Loop(
        state=parts.state,
        data=parts.data,
        device=runtime.device,
        optim=config.optim,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        gc_steps=config.kernels.manual_gc_steps,
        guard=Guard(
            config=config.faults,
            state=parts.state,
            data=parts.data,
            tokenizer=parts.tokenizer,
            device=runtime.device,
            run_dir=config.run_dir,
        ),
        stopwatch=parts.timers.stopwatch,
        stragglers=Stragglers(_hosts(), factor=config.faults.straggler_factor),
        saves=saves,
        requests=requests,
        recorder=Recorder(
            state=parts.state,
            data=parts.data,
            architecture=parts.architecture,
            peak_flops=peak_flops(config.precision) * runtime.ranks.world_size,
            evaluate=config.evaluate,
            measure=parts.measure,
            last_step=config.schedule.steps,
        ),
        journal=journal,
        base_record=parts.base_record,
        retention=RetentionGuard(config=config),
        gate=gate_fingerprint(config),
        beat=parts.beat,
        start=parts.origin.start,
        restart=lambda: _restart(parts),
    )


def _hosts() -> list[str]:
    """The host of every rank."""
    hosts = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(hosts, socket.gethostname())
    return hosts


def _restart(parts: Parts) -> tuple[Start, Position]:
    """Model and optimizer as a run begins with them: nothing that went bad is left of them.

    It is a start of its own: what was saved after the step it goes back to is not of the run any
    more.
    """
    parts.origin = claim_origin(parts.run_dir, take_over=True)
    parts.state.become(
        lambda: _build_state(
            parts.config,
            architecture=parts.architecture,
            runtime=parts.runtime,
            timers=parts.timers,
            base=parts.base_checkpoint if parts.origin.folder is None else None,
            begins=parts.origin.folder is None,
        )
    )
    set_rng_state(parts.first_rng)
    return parts.origin.start, find_position(parts)
