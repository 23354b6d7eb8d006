# SPDX-License-Identifier: Apache-2.0
"""Values of an adapter into native models, of any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.convert.adapters.begins import first_values
from megacpt.convert.adapters.merged import merged
from megacpt.convert.native.reader import native_checkpoint
from megacpt.convert.sources import SourceModel, SourceTensor, hugging_face
from megacpt.families.architecture import Architecture
from megacpt.families.weights import HfTensor, Param
from megacpt.model.build import build_model
from megacpt.model.placement import Placed
from megacpt.model.weights import fill, within

SEQUENCE_LENGTH = 1024
"""Of what the models here are asked."""


def native_model(source: SourceModel) -> list[Any]:
    """The adapter beside its base model in float32, on this one rank."""
    base = hugging_face(source.described_by, architecture=source.architecture)
    chunks = build_model(
        source.architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=SEQUENCE_LENGTH,
    )
    tensors = {**base.tensors, **source.tensors}
    _fill_from(chunks, tensors=tensors, architecture=source.architecture)
    return chunks


def begin_with(
    chunks: Sequence[Any], *, folder: Path, base: Path, architecture: Architecture
) -> None:
    """Give a run's adapter, which is ``architecture``'s, the values that PEFT's folder holds, also
    of what was trained beside; ``ConfigError`` where that is another adapter."""
    source = first_values(folder, base=base, architecture=architecture)
    _fill_from(chunks, tensors=source.tensors, architecture=architecture)


def merge_into(
    chunks: Sequence[Any], *, checkpoint: Path, base_folder: Path, architecture: Architecture
) -> None:
    """Give a run of all weights those of ``base_folder`` with the update of an adapter's checkpoint
    added in float32."""
    adapter = native_checkpoint(checkpoint, described_by=base_folder)
    base = hugging_face(base_folder, architecture=architecture)
    source = merged(adapter, base=base)
    with source.proving():
        _fill_from(chunks, tensors=source.tensors, architecture=architecture)


def _fill_from(
    chunks: Sequence[Any], *, tensors: Mapping[str, SourceTensor], architecture: Architecture
) -> None:
    """Those that are there, by the names of their rows."""

    def read(placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        held = tensors[placed.hf_name(source)]
        if placed.row.tp_dim == 0:
            return held.rows(span.start, count=span.stop - span.start)
        return within(held.whole(), dim=placed.row.tp_dim, span=span)

    def is_there(row: Param) -> bool:
        layer = next(iter(row.layers(architecture)), 0)
        return row.sources[0].name.format(layer=layer, expert=0) in tensors

    for of_adapter in (False, True):
        fill(chunks, read=read, architecture=architecture, of_adapter=of_adapter, wanted=is_there)
