# SPDX-License-Identifier: Apache-2.0
"""Begin a run with parts of another run's checkpoint, in whatever layout that was written."""

from __future__ import annotations

import logging
from typing import Any

import torch

from megacpt.checkpoint import warm_source
from megacpt.checkpoint.choose import damage
from megacpt.checkpoint.state import load, load_model
from megacpt.checkpoint.warm_source import WarmSource
from megacpt.config.sections import RunConfig
from megacpt.device.collective import from_first_rank
from megacpt.errors import CheckpointError
from megacpt.families.architecture import Architecture
from megacpt.train.guard.faults import FaultState
from megacpt.train.position import Position
from megacpt.train.state import TrainState

logger = logging.getLogger(__name__)


def choose(config: RunConfig, *, architecture: Architecture) -> WarmSource | None:
    """The source of a run that begins, every byte of it read; a collective call."""
    if config.checkpoint.load_from is None:
        return None
    source = from_first_rank(lambda: warm_source.find(config))
    if source is None:
        return None
    warm_source.require_same_model(source, architecture=architecture)
    if problem := damage(source.folder, manifest=source.manifest):
        raise CheckpointError(
            f"checkpoint.load_from={config.checkpoint.load_from}: {source.folder} is damaged: "
            f"{problem}; name another checkpoint of that run."
        )
    if torch.distributed.get_rank() == 0:
        for sentence in warm_source.sentences(source, config=config):
            logger.info("%s", sentence)
    return source


def load_weights(source: WarmSource | None, *, chunks: list[Any]) -> None:
    """Into bare chunks, before an optimizer makes its masters of them."""
    if source is not None and source.load.weights and not source.load.optimizer:
        load_model(source.folder, chunks=chunks)


def begin(source: WarmSource, *, state: TrainState) -> Position:
    """Where the new run stands; its optimizer is filled where that was asked for."""
    if source.load.optimizer:
        load(
            source.folder,
            chunks=state.chunks,
            optimizer=state.optimizer,
            step=source.updates,
            same_layout=False,
        )
    return Position(
        step=source.step,
        checkpoint_step=source.step,
        faults=FaultState(updates=source.updates),
    )
