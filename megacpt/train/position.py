# SPDX-License-Identifier: Apache-2.0
"""How far a run is, and moving it to disk and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from megacpt.checkpoint import starts
from megacpt.checkpoint.base_checkpoint import BaseCheckpoint
from megacpt.checkpoint.choose import Origin
from megacpt.checkpoint.manifest import (
    CheckpointManifest,
    require_architecture,
    require_base,
)
from megacpt.checkpoint.starts import Start
from megacpt.checkpoint.state import barrier, load
from megacpt.config.paths import RunFolder
from megacpt.config.sections import ParallelConfig
from megacpt.device import runtime
from megacpt.device.collective import from_first_rank
from megacpt.families.architecture import Architecture
from megacpt.monitor.metrics import FaultRecord
from megacpt.plan.rules.experts import expert_tensor_ranks
from megacpt.samples.training_data import TrainingData
from megacpt.train.guard import faults
from megacpt.train.guard.faults import FaultState
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
    gate: str | None = None
    """Fingerprint of the gate as it was before the first step (megacpt.config.declared)."""
    heldout: dict[str, float] | None = None
    """Held-out losses of this very step; None where none are due."""
    faults: FaultState = field(default_factory=FaultState)
    checkpoint_step: int = 0
    """Step of the newest checkpoint; 0 is the start of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Facts of a run that its checkpoints name."""

    architecture: Architecture
    parallel: ParallelConfig
    data: TrainingData
    base: str | None = None
    """Fingerprint of what an adapter is trained beside."""
    model: str | None = None
    """Where that lies."""

    @property
    def layout(self) -> dict[str, int]:
        p = self.parallel
        sizes = {"tp": p.tp, "cp": p.cp, "pp": p.pp, "vpp": p.vpp, "dp": p.dp, "ep": p.ep}
        return sizes | {"etp": expert_tensor_ranks(p)}


def resume(
    run_dir: Path,
    *,
    state: TrainState,
    identity: Identity,
    origin: Origin,
    base: BaseCheckpoint | None = None,
) -> Position:
    """Load what ``origin`` names and say so in the record of its start; a collective call.

    ``base``: what a run begins with that has no checkpoint yet.
    """
    position = _load(state, identity=identity, origin=origin)
    if position is None:
        position = _begin(base, state=state) if base is not None else Position()
    barrier()
    if torch.distributed.get_rank() == 0:
        starts.record_from(origin.start, step=position.step)
    path = RunFolder(run_dir).faults
    return _with_events(
        position, written=from_first_rank(lambda: faults.read_events(path)), path=path
    )


def _load(state: TrainState, *, identity: Identity, origin: Origin) -> Position | None:
    if origin.folder is None or origin.manifest is None:
        return None
    folder, manifest = origin.folder, origin.manifest
    require_architecture(manifest, architecture=asdict(identity.architecture), folder=folder)
    require_base(manifest, base=identity.base, model=identity.model, folder=folder)
    rng = load(
        folder,
        chunks=state.chunks,
        optimizer=state.optimizer,
        step=manifest.faults["updates"],
        same_layout=manifest.layout == identity.layout,
    )
    if rng is not None:
        runtime.set_rng_state(rng)
    logger.info("resumed from %s", folder)
    if rng is None:
        logger.info(
            "written by another layout (%s), now %s: weights and optimizer state are the same, "
            "random generators are seeded as in a new run",
            _described(manifest.layout),
            _described(identity.layout),
        )
    return Position(
        step=manifest.step,
        tokens_per_source=dict(manifest.tokens_per_source),
        elapsed_s=manifest.elapsed_s,
        base_heldout=manifest.base_heldout,
        gate=manifest.gate,
        faults=FaultState.from_json(manifest.faults),
        checkpoint_step=manifest.step,
    )


def _begin(base: BaseCheckpoint, *, state: TrainState) -> Position:
    """Start from another run's checkpoint; the optimizer is filled where that was asked for."""
    if base.load.optimizer:
        load(
            base.folder,
            chunks=state.chunks,
            optimizer=state.optimizer,
            step=base.updates,
            same_layout=False,
        )
    return Position(
        step=base.step,
        checkpoint_step=base.step,
        faults=FaultState(updates=base.updates),
    )


def _described(layout: Mapping[str, int]) -> str:
    own = {n: size for n, size in layout.items() if size != (layout["tp"] if n == "etp" else 1)}
    return " ".join(f"{name}={size}" for name, size in own.items()) or "one rank"


def _with_events(position: Position, *, written: Sequence[FaultRecord], path: Path) -> Position:
    """Add the rollbacks that came after the checkpoint, and make the file say the same."""
    position.faults.events = faults.merged(position.faults.events, written=written)
    if torch.distributed.get_rank() == 0:
        faults.write_events(path, events=position.faults.events)
    return position


def manifest_of(position: Position, *, identity: Identity, start: Start) -> CheckpointManifest:
    """A checkpoint's manifest, but for its files, which are known once they are written."""
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
        files={},
        base=identity.base,
        gate=position.gate,
    )
