# SPDX-License-Identifier: Apache-2.0
"""Values of an adapter into native models, of any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.convert.sources import SourceModel, SourceTensor, hugging_face
from megacpt.families.architecture import Architecture
from megacpt.families.weights import HfTensor
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
    for of_adapter in (False, True):
        fill_from(chunks, tensors=tensors, architecture=source.architecture, of_adapter=of_adapter)
    return chunks


def fill_from(
    chunks: Sequence[Any],
    *,
    tensors: Mapping[str, SourceTensor],
    architecture: Architecture,
    of_adapter: bool,
) -> None:
    """By the names of their rows."""

    def read(placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        held = tensors[placed.hf_name(source)]
        if placed.row.tp_dim == 0:
            return held.rows(span.start, count=span.stop - span.start)
        return within(held.whole(), dim=placed.row.tp_dim, span=span)

    fill(chunks, read=read, architecture=architecture, of_adapter=of_adapter)
