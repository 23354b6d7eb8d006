# SPDX-License-Identifier: Apache-2.0
"""How far a run is, and moving it to disk and back."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from megacpt.checkpoint import adam, sharded, starts, store, verify
from megacpt.checkpoint.manifest import CheckpointManifest, require_architecture
from megacpt.checkpoint.retention import Retention
from megacpt.checkpoint.starts import Start
from megacpt.config.paths import RunFolder
from megacpt.config.sections import ParallelConfig
from megacpt.data.order import TrainingData
from megacpt.device import runtime
from megacpt.errors import EnvironmentError_
from megacpt.monitor.metrics import FaultRecord
from megacpt.plan.architecture import Architecture
from megacpt.train import faults
from megacpt.train.faults import FaultState
from megacpt.train.heldout import evaluating
from megacpt.train.origin import Origin, from_first_rank
from megacpt.train.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Position:
    """The whole of what a resumed run must know beyond weights, optimizer and generators.

    The data position is the step: what was drawn up to it is in the data's own record.
    """

    step: int = 0
    """Optimizer steps done."""
    tokens_per_source: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    base_heldout: dict[str, dict[str, float]] | None = None
    """Held-out losses of the untouched base model; None until they are measured."""
    heldout: dict[str, float] | None = None
    """Held-out losses of this very step; None where none are due."""
    faults: FaultState = field(default_factory=FaultState)
    checkpoint_step: int = 0
    """Of the newest checkpoint; 0 is the start of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a checkpoint says of the run that wrote it."""

    architecture: Architecture
    parallel: ParallelConfig
    data: TrainingData

    @property
    def layout(self) -> dict[str, int]:
        p = self.parallel
        return {"tp": p.tp, "cp": p.cp, "pp": p.pp, "vpp": p.vpp, "dp": p.dp, "ep": p.ep}


def save(
    root: Path,
    *,
    state: TrainState,
    position: Position,
    identity: Identity,
    start: Start,
    retention: Retention,
) -> None:
    """Write, publish and prune; a collective call. The run can die anywhere and lose nothing."""
    partial = store.partial_folder(root, step=position.step, start=start)
    writer = torch.distributed.get_rank() == 0
    if writer:
        start.require_held()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _require_space(partial, architecture=identity.architecture)
    sharded.barrier()
    # Of an optimizer whose every update was skipped there would be nothing to write.
    adam.allocate_state(state.optimizer)
    with evaluating(state.chunks):
        rng = runtime.rng_state()
        sharded.save(partial, chunks=state.chunks, optimizer=state.optimizer, rng_state=rng)
    sharded.barrier()
    if writer:
        manifest = _manifest(partial, position, identity, start=start)
        store.publish(root, partial=partial, manifest=manifest, start=start)
        store.prune(root, policy=retention, start=start)
    sharded.barrier()
    position.checkpoint_step = position.step


def resume(run_dir: Path, *, state: TrainState, identity: Identity, origin: Origin) -> Position:
    """Load what ``origin`` names and say so in the record of its start; a collective call."""
    position = _load(state, identity=identity, origin=origin)
    sharded.barrier()
    if torch.distributed.get_rank() == 0:
        starts.record_from(origin.start, step=position.step)
    path = RunFolder(run_dir).faults
    return _with_events(
        position, written=from_first_rank(lambda: faults.read_events(path)), path=path
    )


def _load(state: TrainState, *, identity: Identity, origin: Origin) -> Position:
    if origin.folder is None or origin.manifest is None:
        return Position()
    folder, manifest = origin.folder, origin.manifest
    require_architecture(manifest, architecture=asdict(identity.architecture), folder=folder)
    rng = sharded.load(
        folder,
        chunks=state.chunks,
        optimizer=state.optimizer,
        step=manifest.faults["updates"],
        same_layout=manifest.layout == identity.layout,
    )
    if rng is not None:
        runtime.set_rng_state(rng)
    logger.info("resumed from %s", folder)
    return Position(
        step=manifest.step,
        tokens_per_source=dict(manifest.tokens_per_source),
        elapsed_s=manifest.elapsed_s,
        base_heldout=manifest.base_heldout,
        faults=FaultState.from_json(manifest.faults),
        checkpoint_step=manifest.step,
    )


def _with_events(position: Position, *, written: Sequence[FaultRecord], path: Path) -> Position:
    """Add the rollbacks that came after the checkpoint, and make the file say the same."""
    position.faults.events = faults.merged(position.faults.events, written=written)
    if torch.distributed.get_rank() == 0:
        faults.write_events(path, position.faults.events)
    return position


def _manifest(
    partial: Path, position: Position, identity: Identity, *, start: Start
) -> CheckpointManifest:
    return CheckpointManifest(
        step=position.step,
        start=start.number,
        architecture=asdict(identity.architecture),
        layout=identity.layout,
        data=identity.data.record(position.step),
        tokens_per_source=dict(position.tokens_per_source),
        elapsed_s=position.elapsed_s,
        base_heldout=position.base_heldout,
        heldout=position.heldout,
        faults=position.faults.to_json(),
        files=verify.sums_of(partial),
    )


def _require_space(folder: Path, *, architecture: Architecture) -> None:
    """Weights and two Adam moments in fp32, and a bf16 copy: 14 bytes a parameter at most."""
    needed_bytes = 14 * architecture.num_parameters
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise EnvironmentError_(
            f"a checkpoint needs about {needed_bytes / 2**30:.1f} GiB but {folder.parent} has "
            f"{free_bytes / 2**30:.1f} GiB free; free space there and run the same command again, "
            "it goes on from the last checkpoint."
        )
