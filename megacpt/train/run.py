# SPDX-License-Identifier: Apache-2.0
"""Assemble a run on one rank: model, data, held-out sets, checkpoint, journal."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint.base_checkpoint import BaseCheckpoint
from megacpt.checkpoint.choose import Origin, claim_origin
from megacpt.checkpoint.writer.process import Background
from megacpt.config.paths import heldout_shards, source_shards
from megacpt.config.sections import Init, RunConfig
from megacpt.device.runtime import Runtime, rng_state, set_rng_state
from megacpt.device.stopwatch import Stopwatch
from megacpt.device.timers import Timers
from megacpt.evaluate.base import Record, first_record, forward_chunks
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.model import health
from megacpt.model.chunks import build_chunks
from megacpt.samples.heldout import HeldoutSet
from megacpt.samples.training_data import TrainingData
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.train import warm_start
from megacpt.train.guard.straggler import Stragglers
from megacpt.train.position import Identity
from megacpt.train.state import TrainState, wrap_for_training

logger = logging.getLogger(__name__)
Beat = Callable[[str | None], None]
"""Told what the rank is about to do, or None: it still does it."""


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything the loop works with."""

    config: RunConfig
    runtime: Runtime
    architecture: Architecture
    tokenizer: Tokenizer
    prompts: list[str]
    data: TrainingData
    origin: Origin
    """This start of the run and the checkpoint it begins with; a rollback makes another."""
    source: BaseCheckpoint | None
    """The other run's checkpoint that it begins with while it has none of its own."""
    heldout: Mapping[str, HeldoutSet]
    base_record: Record | None
    """Of the base model, where the run begins with other weights than the base model's."""
    state: TrainState
    first_rng: dict[str, torch.Tensor]
    """The generators' state of a run that begins."""
    timers: Timers
    stragglers: Stragglers
    beat: Beat
    writer: Background[Any] | None
    """Writes checkpoints beside training; None: training waits for them."""

    @property
    def run_dir(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    @property
    def identity(self) -> Identity:
        return Identity(
            architecture=self.architecture,
            parallel=self.config.parallel,
            data=self.data,
        )


def assemble(
    config: RunConfig,
    *,
    runtime: Runtime,
    beat: Beat = lambda activity: None,
    writer: Background[Any] | None = None,
) -> Run:
    """Build all parts; megacpt.device.groups.initialise_parallel comes before."""
    base = Path(str(config.model.path))
    architecture = read_architecture(base)
    tokenizer = load_tokenizer(base)
    origin = claim_origin(Path(config.run_dir))
    source = warm_start.choose(config, architecture=architecture) if not origin.folder else None
    if runtime.ranks.rank == 0 and origin.folder is None:
        _check_health(config, architecture=architecture, tokenizer=tokenizer)
    timers = Timers(Stopwatch(runtime.device), beat=lambda: beat(None))
    heldout, prompts = open_heldout(config, architecture=architecture), _read_prompts(config)
    base_record = None
    if source is not None and source.load.weights:
        chunks = forward_chunks(config, architecture=architecture, runtime=runtime, timers=timers)
        base_record = first_record(
            chunks, config=config, heldout=heldout, prompts=prompts, tokenizer=tokenizer
        )
        del chunks
        gc.collect()
    state = _build_state(
        config, architecture=architecture, runtime=runtime, timers=timers, source=source
    )
    return Run(
        config=config,
        runtime=runtime,
        architecture=architecture,
        tokenizer=tokenizer,
        prompts=prompts,
        data=_training_data(
            config,
            vocab_size=architecture.vocab_size,
            record=source.data_record(config.data, seed=config.seed) if source else origin.data,
        ),
        origin=origin,
        source=source,
        heldout=heldout,
        base_record=base_record,
        state=state,
        first_rng=rng_state(),
        timers=timers,
        stragglers=Stragglers(_hosts(), factor=config.faults.straggler_factor),
        beat=beat,
        writer=writer,
    )


def _training_data(
    config: RunConfig, *, vocab_size: int, record: dict[str, Any] | None
) -> TrainingData:
    return TrainingData.open(
        config.data,
        seed=config.seed,
        shards=source_shards(config),
        vocab_size=vocab_size,
        steps=config.schedule.steps,
        record=record,
    )


def rebuild(run: Run) -> None:
    """Model and optimizer as a run begins with them: nothing that went bad is left of them.

    A start of its own: what was saved after the step it goes back to is not of the run any more.
    """
    run.origin = claim_origin(run.run_dir)
    del run.state
    gc.collect()
    run.state = _build_state(
        run.config,
        architecture=run.architecture,
        runtime=run.runtime,
        timers=run.timers,
        source=run.source if run.origin.folder is None else None,
    )
    set_rng_state(run.first_rng)


def _build_state(
    config: RunConfig,
    *,
    architecture: Architecture,
    runtime: Runtime,
    timers: Timers,
    source: BaseCheckpoint | None,
) -> TrainState:
    base = Path(str(config.model.path))
    chunks = build_chunks(config, architecture=architecture, runtime=runtime, base_folder=base)
    warm_start.load_weights(source, chunks=chunks)
    state = wrap_for_training(chunks, config=config, device=runtime.device)
    state.transformer.timers = timers
    return state


def _hosts() -> list[str]:
    """Of every rank."""
    hosts = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(hosts, socket.gethostname())
    return hosts


def _check_health(config: RunConfig, *, architecture: Architecture, tokenizer: Tokenizer) -> None:
    """Look at the base model before its weights are used, once in a run's life."""
    if config.model.init is Init.random:
        return
    base = Path(str(config.model.path))
    findings = health.check(base, architecture=architecture, tokenizer=tokenizer)
    health.require_healthy(findings, folder=base, allow_unhealthy=config.model.allow_unhealthy)
    for finding in findings:
        logger.info("model: %s", finding)


def open_heldout(
    config: RunConfig, *, architecture: Architecture, max_tokens: int | None = None
) -> dict[str, HeldoutSet]:
    """The named sets, cut to their own ``max_tokens`` unless another bound is given (0: all)."""
    shards = heldout_shards(config)
    return {
        name: HeldoutSet.open(
            shards[name],
            sequence_length=config.data.sequence_length,
            max_tokens=heldout.max_tokens if max_tokens is None else max_tokens,
            vocab_size=architecture.vocab_size,
            document_mask=config.data.document_mask,
        )
        for name, heldout in config.evaluate.heldout.items()
    }


def _read_prompts(config: RunConfig) -> list[str]:
    path = config.evaluate.prompts
    if path is None:
        return []
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
