# SPDX-License-Identifier: Apache-2.0
"""What a set of ranks can be started for: to train, or to measure base and newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megacpt.checkpoint import sharded, store
from megacpt.config.atomic import write_text
from megacpt.config.schema import to_tree
from megacpt.config.sections import DeviceKind, RunConfig
from megacpt.device import variables
from megacpt.device.runtime import Runtime, peak_name
from megacpt.errors import CheckpointError, TrainingFault
from megacpt.evaluate.gate import verdict
from megacpt.model import kernels
from megacpt.model.families import read_architecture
from megacpt.model.parallel import initialise_parallel
from megacpt.monitor.environment import Settings, write_environment
from megacpt.plan.architecture import Architecture
from megacpt.plan.blend_rules import longest
from megacpt.train import loop
from megacpt.train.heldout import as_record, measure_all
from megacpt.train.journal import Journal
from megacpt.train.position import Position
from megacpt.train.run import Run, assemble, open_heldout
from megacpt.train.state import build_chunks, wrap_for_forward


def train(config: RunConfig, *, runtime: Runtime, watchdog: Watchdog) -> None:
    """Train, or go on training, to the last step."""
    initialise_parallel(config.parallel, seed=config.seed)
    _start_overlap(config, kind=runtime.kind)
    run = assemble(config, runtime=runtime, beat=watchdog.beat)
    position = loop.start(run)
    journal = _open_journal(config, start_step=position.step) if runtime.ranks.rank == 0 else None
    if journal is not None:
        write_environment(
            Path(config.run_dir), device=str(runtime.device), ranks=runtime.ranks.world_size
        )
    try:
        with watchdog:
            _fit(run, position=position, journal=journal)
    except TrainingFault:
        # All ranks raise it at once: none may end the run before the first has closed its journal.
        sharded.barrier()
        raise


def _fit(run: Run, *, position: Position, journal: Journal | None) -> None:
    failed = True
    try:
        loop.fit(run, position=position, journal=journal)
        failed = False
    finally:
        if journal is not None:
            journal.close(failed=failed)


def _open_journal(config: RunConfig, *, start_step: int) -> Journal:
    return Journal(config, resolved=to_tree(config), start_step=start_step)


def evaluate(config: RunConfig, *, runtime: Runtime, watchdog: Watchdog) -> None:
    """Measure whole held-out sets, base beside newest checkpoint, into RUN_DIR/evaluation.json."""
    folder = store.newest(Path(config.run_dir) / "checkpoints")
    if folder is None:
        raise CheckpointError(
            f"{config.run_dir} has no complete checkpoint; run megacpt train on it first."
        )
    base_folder = Path(str(config.model.path))
    architecture = read_architecture(base_folder)
    manifest = store.read_manifest(folder)
    store.require_architecture(manifest, architecture=asdict(architecture), folder=folder)
    initialise_parallel(config.parallel, seed=config.seed)
    chunks = build_chunks(
        config, architecture=architecture, runtime=runtime, base_folder=base_folder
    )
    chunks = wrap_for_forward(chunks, config=config, device=runtime.device)
    base = _measure(config, architecture=architecture, chunks=chunks, runtime=runtime)
    sharded.load_model(folder, chunks=chunks)
    final = _measure(config, architecture=architecture, chunks=chunks, runtime=runtime)
    if runtime.ranks.rank == 0:
        result = _result(config, manifest.step, base, final)
        write_text(Path(config.run_dir) / "evaluation.json", json.dumps(result, indent=2))


def _measure(
    config: RunConfig, *, architecture: Architecture, chunks: list[Any], runtime: Runtime
) -> dict[str, Any]:
    losses = measure_all(
        chunks,
        open_heldout(config, architecture=architecture, max_tokens=0),
        micro_batch_size=config.data.micro_batch_size,
        device=runtime.device,
    )
    return as_record(losses)


def _result(
    config: RunConfig, step: int, base: Mapping[str, Any], final: Mapping[str, Any]
) -> dict[str, Any]:
    heldout = {name: {"base": base[name], "final": final[name]} for name in base}
    checks = verdict(
        heldout,
        gate=config.evaluate.gate,
        domain=config.evaluate.domain,
        general=config.evaluate.general,
    )
    return {"step": step, "heldout": heldout, "gate": [asdict(check) for check in checks]}


MODES: dict[str, Callable[..., None]] = {"train": train, "evaluate": evaluate}
