# SPDX-License-Identifier: Apache-2.0
"""Begin a run with parts of another run's checkpoint, in whatever layout that was written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint import base_checkpoint
from megacpt.checkpoint.base_checkpoint import BaseCheckpoint, UpdateSettings
from megacpt.checkpoint.choose import damage
from megacpt.checkpoint.state import load, load_model
from megacpt.config.sections import RunConfig
from megacpt.device.collective import from_first_rank
from megacpt.errors import CheckpointError
from megacpt.families.architecture import Architecture
from megacpt.train.guard.faults import FaultState
from megacpt.train.position import Position
from megacpt.train.state import TrainState

logger = logging.getLogger(__name__)


def choose(config: RunConfig, *, architecture: Architecture) -> BaseCheckpoint | None:
    """The base checkpoint of a run that begins, every byte of it read; a collective call."""
    if config.checkpoint.load_from is None:
        return None
    base = from_first_rank(
        lambda: base_checkpoint.find(config.checkpoint, run_dir=Path(config.run_dir))
    )
    if base is None:
        return None
    settings = UpdateSettings(
        optim=config.optim, schedule=config.schedule, dtype=config.precision.dtype
    )
    base_checkpoint.require_fit(base, architecture=architecture, settings=settings)
    if problem := damage(base.folder, manifest=base.manifest):
        raise CheckpointError(
            f"checkpoint.load_from={config.checkpoint.load_from}: {base.folder} is damaged: "
            f"{problem}; name another checkpoint of that run."
        )
    if torch.distributed.get_rank() == 0:
        for sentence in base_checkpoint.sentences(base, settings=settings):
            logger.info("%s", sentence)
    return base


def load_weights(base: BaseCheckpoint | None, *, chunks: list[Any]) -> None:
    """Into bare chunks, before an optimizer makes its masters of them."""
    if base is not None and base.load.weights and not base.load.optimizer:
        load_model(base.folder, chunks=chunks)


def begin(base: BaseCheckpoint, *, state: TrainState) -> Position:
    """Where the new run stands; its optimizer is filled where that was asked for."""
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
