# SPDX-License-Identifier: Apache-2.0
"""What a set of ranks can be started for: to train, or to measure base and newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megacpt.checkpoint import state
from megacpt.checkpoint.choose import choose
from megacpt.checkpoint.manifest import require_architecture
from megacpt.checkpoint.writer import pace, process
from megacpt.config.schema import to_tree
from megacpt.config.sections import DeviceKind, RunConfig
from megacpt.device.groups import initialise_parallel
from megacpt.device.runtime import Runtime
from megacpt.device.stopwatch import Stopwatch
from megacpt.device.timers import Timers
from megacpt.errors import CheckpointError, EndedOnRequest, Superseded, TrainingFault
from megacpt.evaluate.base import forward_chunks
from megacpt.evaluate.gate import verdict
from megacpt.evaluate.heldout import as_record, measure_all
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.files import write_text
from megacpt.monitor.environment import write_environment
from megacpt.train import loop
from megacpt.train.guard.watchdog import Watchdog
from megacpt.train.journal import Journal
from megacpt.train.position import Position
from megacpt.train.run import Run, assemble, open_heldout
from megacpt.train.settings import arithmetic, found_settings, start_overlap


def train(config: RunConfig, *, runtime: Runtime, watchdog: Watchdog) -> None:
    """Train, or go on training, to the last step."""
    initialise_parallel(config.parallel, seed=config.seed)
    start_overlap(config, runtime=runtime)
    cores = pace.CORES if runtime.kind is DeviceKind.cpu else 1.0
    with process.started(wanted=config.checkpoint.asynchronous, cores=cores) as writer:
        run = assemble(config, runtime=runtime, beat=watchdog.beat, writer=writer)
        _train(run, watchdog=watchdog)


def _train(run: Run, *, watchdog: Watchdog) -> None:
    config, runtime = run.config, run.runtime
    position = loop.start(run)
    words = arithmetic(config, runtime=runtime)
    first = runtime.ranks.rank == 0
    journal = _open_journal(config, position=position, words=words) if first else None
    if journal is not None:
        write_environment(
            Path(config.run_dir),
            device=str(runtime.device),
            ranks=runtime.ranks.world_size,
            settings=found_settings(config, transformer=run.state.transformer, runtime=runtime),
        )
    try:
        with watchdog:
            _fit(run, position=position, journal=journal)
    except (TrainingFault, EndedOnRequest, Superseded):
        # All ranks raise it at once: none may end the run before the first has closed its journal.
        state.barrier()
        raise


def _fit(run: Run, *, position: Position, journal: Journal | None) -> None:
    failed = True
    try:
        loop.fit(run, position=position, journal=journal)
        failed = False
    finally:
        if journal is not None:
            journal.close(failed=failed)


def _open_journal(config: RunConfig, *, position: Position, words: str) -> Journal:
    return Journal(
        config,
        resolved=to_tree(config),
        start_step=position.step,
        is_new=position.base_heldout is None,
        arithmetic=words,
    )


def evaluate(config: RunConfig, *, runtime: Runtime, watchdog: Watchdog) -> None:
    """Measure whole held-out sets, base beside newest checkpoint, into RUN_DIR/evaluation.json."""
    chosen = choose(Path(config.run_dir) / "checkpoints")
    if chosen is None or chosen.manifest is None:
        raise CheckpointError(
            f"{config.run_dir} has no complete checkpoint; run megacpt train on it first."
        )
    architecture = read_architecture(Path(str(config.model.path)))
    folder, manifest = chosen.folder, chosen.manifest
    require_architecture(manifest, architecture=asdict(architecture), folder=folder)
    initialise_parallel(config.parallel, seed=config.seed)
    timers = Timers(Stopwatch(runtime.device), beat=watchdog.beat)
    chunks = forward_chunks(config, architecture=architecture, runtime=runtime, timers=timers)
    with watchdog:
        base = _measure(config, architecture=architecture, chunks=chunks, runtime=runtime)
        state.load_model(folder, chunks=chunks)
        final = _measure(config, architecture=architecture, chunks=chunks, runtime=runtime)
    if runtime.ranks.rank == 0:
        words = arithmetic(config, runtime=runtime)
        result = _result(config, step=manifest.step, base=base, final=final, words=words)
        write_text(Path(config.run_dir) / "evaluation.json", text=json.dumps(result, indent=2))


def _measure(
    config: RunConfig, *, architecture: Architecture, chunks: list[Any], runtime: Runtime
) -> dict[str, Any]:
    losses = measure_all(
        chunks,
        sets=open_heldout(config, architecture=architecture, max_tokens=0),
        micro_batch_size=config.data.micro_batch_size,
        device=runtime.device,
    )
    return as_record(losses)


def _result(
    config: RunConfig, *, step: int, base: Mapping[str, Any], final: Mapping[str, Any], words: str
) -> dict[str, Any]:
    heldout = {name: {"base": base[name], "final": final[name]} for name in base}
    checks = verdict(
        heldout,
        gate=config.evaluate.gate,
        domain=config.evaluate.domain,
        general=config.evaluate.general,
    )
    return {
        "step": step,
        "arithmetic": words,
        "heldout": heldout,
        "gate": [asdict(check) for check in checks],
    }


MODES: dict[str, Callable[..., None]] = {"train": train, "evaluate": evaluate}
