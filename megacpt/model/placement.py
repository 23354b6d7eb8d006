# SPDX-License-Identifier: Apache-2.0
"""Which row each parameter of this rank's chunks belongs to, under any pipeline layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model

from megacpt.families import param_rows
from megacpt.families.architecture import Architecture
from megacpt.families.weights import Param, Source

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
_LAYER = re.compile(r"^(decoder\.layers\.)(\d+)(\.)")
_EXPERT = re.compile(r"(\.experts\.(?:local_experts\.|linear_fc[12]\.weight))(\d+)(\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How many ranks a parameter is cut over, and which of them this one is."""

    size: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A parameter of this rank with its row, its layer and its expert in the whole model."""

    tensor: torch.nn.Parameter
    row: Param
    layer: int | None
    expert: int | None

    def hf_name(self, source: Source) -> str:
        return source.name.format(layer=self.layer, expert=self.expert)

    @property
    def cut(self) -> Cut:
        """The ranks it is cut over."""
        if self.row.per_expert:
            return Cut(
                size=parallel_state.get_expert_tensor_parallel_world_size(),
                rank=parallel_state.get_expert_tensor_parallel_rank(),
            )
        return Cut(
            size=parallel_state.get_tensor_model_parallel_world_size(),
            rank=parallel_state.get_tensor_model_parallel_rank(),
        )


def placed_params(chunks: Sequence[Any], *, architecture: Architecture) -> Iterator[Placed]:
    """Every parameter of the (possibly wrapped) chunks; one without a row is a defect."""
    rows = rows_by_native_name(architecture)
    for chunk in unwrap_model(list(chunks)):
        for name, tensor in chunk.named_parameters():
            layer, expert = _LAYER.search(name), _EXPERT.search(name)
            row = rows[_EXPERT.sub(r"\1{expert}\3", _LAYER.sub(r"\1{layer}\3", name))]
            yield Placed(
                tensor=tensor,
                row=row,
                layer=chunk.decoder.layers[int(layer[2])].layer_number - 1 if layer else None,
                expert=_global_expert(int(expert[2]), architecture=architecture)
                if expert
                else None,
            )


def _global_expert(local: int, *, architecture: Architecture) -> int:
    """The experts are dealt in order, equally many to each expert-parallel rank."""
    assert architecture.experts is not None
    ranks = parallel_state.get_expert_model_parallel_world_size()
    rank = parallel_state.get_expert_model_parallel_rank()
    return int(rank * (architecture.experts.num // ranks) + local)


def rows_by_native_name(architecture: Architecture) -> dict[str, Param]:
    """Rows under their plain name and Transformer Engine's.

    A tied output matrix exists only on a last pipeline stage that is not also the first; it is a
    copy of the embedding there.
    """
    rows: dict[str, Param] = {}
    for row in param_rows(architecture):
        rows[row.native] = row
        if row.engine is not None:
            rows[row.engine] = row
    if architecture.tied_embeddings:
        rows[OUTPUT] = rows[EMBEDDING]
    return rows


def hf_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every Hugging Face tensor of the whole model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in param_rows(architecture):
        layers = range(architecture.num_layers) if "{layer}" in row.native else (None,)
        mixture = architecture.experts if row.per_expert else None
        experts = range(mixture.num) if mixture else (None,)
        for layer, expert, source in product(layers, experts, row.sources):
            name = source.name.format(layer=layer, expert=expert)
            shapes[name] = source.shape(architecture)
    return shapes
