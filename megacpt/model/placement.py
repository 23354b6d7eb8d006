# SPDX-License-Identifier: Apache-2.0
"""Which row each parameter of this rank's chunks belongs to, under any pipeline layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.utils import unwrap_model

from megacpt.model.families import param_rows
from megacpt.model.params import Param, Source
from megacpt.plan.architecture import Architecture

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A parameter of this rank with its row and its layer in the whole model."""

    tensor: torch.nn.Parameter
    row: Param
    layer: int | None

    def hf_name(self, source: Source) -> str:
        return source.name.format(layer=self.layer)


def placed_params(chunks: Sequence[Any], *, architecture: Architecture) -> Iterator[Placed]:
    """Every parameter of the (possibly wrapped) chunks; one without a row is a defect."""
    rows = rows_by_native_name(architecture)
    for chunk in unwrap_model(list(chunks)):
        for name, tensor in chunk.named_parameters():
            found = _LAYER.match(name)
            layer = chunk.decoder.layers[int(found[1])].layer_number - 1 if found else None
            yield Placed(
                tensor=tensor, row=rows[_LAYER.sub("decoder.layers.{layer}.", name)], layer=layer
            )


def rows_by_native_name(architecture: Architecture) -> dict[str, Param]:
    """Rows under their plain and their fused name.

    A tied output matrix exists only on a last pipeline stage that is not also the first; it is a
    copy of the embedding there.
    """
    rows: dict[str, Param] = {}
    for row in param_rows(architecture):
        rows[row.native] = row
        if row.fused is not None:
            rows[row.fused] = row
    if architecture.tied_embeddings:
        rows[OUTPUT] = rows[EMBEDDING]
    return rows


def hf_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every Hugging Face tensor of the whole model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in param_rows(architecture):
        layers = range(architecture.num_layers) if "{layer}" in row.native else (None,)
        for layer in layers:
            for source in row.sources:
                shapes[source.name.format(layer=layer)] = source.shape(architecture)
    return shapes
