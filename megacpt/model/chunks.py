# SPDX-License-Identifier: Apache-2.0
"""This rank's chunks of the model, with the base model's weights, ready for forward passes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer.module import Float16Module

from megacpt.config.sections import Dtype, Init, ParallelConfig, PrecisionConfig, RunConfig
from megacpt.device.runtime import Runtime
from megacpt.families.architecture import Architecture
from megacpt.families.weights import Role
from megacpt.model.adapters.start import ReadWeight, start_adapter
from megacpt.model.build import build_model
from megacpt.model.hf_tensors import HfTensors
from megacpt.model.weights import drawn, initialise_randomly, load_hf
from megacpt.model.zero3 import ShardedWeights
from megacpt.plan.rules.data import longest


def build_chunks(
    config: RunConfig,
    *,
    architecture: Architecture,
    runtime: Runtime,
    base_folder: Path,
    starts_adapter: bool = True,
) -> list[Any]:
    """This rank's stages with the base model's weights (or random ones, where asked for).

    ``starts_adapter``: with its first values, for which some methods decompose every weight; else
    they are undefined, and whoever asks fills them.
    """
    chunks = build_model(
        architecture.balanced_by(config.model.router_aux_loss_coef),
        parallel=config.parallel,
        precision=config.precision,
        kind=runtime.kind,
        sequence_length=longest(config.data),
        kernels=config.kernels,
        base=config.adapter.base if config.adapter else None,
    )
    if config.model.init is Init.random:
        initialise_randomly(chunks, architecture=architecture, seed=config.seed)
    else:
        load_hf(chunks, folder=base_folder, architecture=architecture)
    if architecture.adapter is not None and starts_adapter:
        weight = _reader(config, architecture=architecture, base_folder=base_folder)
        start_adapter(chunks, architecture=architecture, weight=weight, seed=config.seed)
    if not config.parallel.sharded_weights:
        # Whole weights are more than the device should hold where they are about to be cut.
        for chunk in chunks:
            chunk.to(runtime.device)
    return chunks


def _reader(config: RunConfig, *, architecture: Architecture, base_folder: Path) -> ReadWeight:
    """Of the weights that the run begins with."""
    if config.model.init is Init.random:
        return partial(drawn, role=Role.linear, architecture=architecture, seed=config.seed)

    @cache
    def tensors() -> HfTensors:
        # Not every method asks for one.
        return HfTensors.of_folder(base_folder, architecture=architecture)

    return lambda name, source: tensors().read(name)


def wrap_for_forward(
    chunks: list[Any],
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    device: torch.device,
) -> list[Any]:
    """Chunks in the run's dtype, their weights cut where the run cuts them."""
    if parallel.sharded_weights:
        return [ShardedWeights(chunk, device=device) for chunk in chunks]
    if precision.dtype is Dtype.bf16:
        return [Float16Module(chunk.config, chunk) for chunk in chunks]
    return chunks


def without_overlap(config: RunConfig) -> RunConfig:
    """For forward passes alone, which Transformer Engine never overlaps."""
    return replace(config, kernels=replace(config.kernels, tp_comm_overlap=False))
