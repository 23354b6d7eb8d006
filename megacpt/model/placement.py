# SPDX-License-Identifier: Apache-2.0
"""Which row each parameter of this rank's chunks belongs to, under any pipeline layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model

from megacpt.families import param_rows, table_row
from megacpt.families.adapter import adapter_rows
from megacpt.families.architecture import Architecture
from megacpt.families.weights import HfTensor, Param, Role


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

    def hf_name(self, source: HfTensor) -> str:
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
    patterns = {pattern_of(name): row for name, row in rows.items()}
    for chunk in unwrap_model(list(chunks)):
        for name, tensor in chunk.named_parameters():
            found, row = next(
                (found, row) for pattern, row in patterns.items() if (found := pattern(name))
            )
            expert = found.groupdict().get("expert")
            yield Placed(
                tensor=tensor,
                row=row,
                layer=layer_of(chunk, found=found),
                expert=None
                if expert is None
                else _global_expert(int(expert), architecture=architecture),
            )


def layer_of(chunk: Any, *, found: re.Match[str]) -> int | None:
    """The layer's number in the whole model, from 0, of a name that matches a pattern."""
    local = found.groupdict().get("layer")
    return None if local is None else int(chunk.decoder.layers[int(local)].layer_number) - 1


def pattern_of(name: str) -> Callable[[str], re.Match[str] | None]:
    """Matches a native name of the rows with the numbers of layer and expert in it."""
    parts = re.split(r"\{(\w+)\}", name)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = (rf"(?P<{number}>\d+)" for number in parts[1::2])
    return re.compile("".join(parts)).fullmatch


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
    for row in (*param_rows(architecture), *adapter_rows(architecture)):
        rows[row.native] = row
        if row.engine is not None:
            rows[row.engine] = row
    if architecture.tied_embeddings:
        head = table_row(architecture, role=Role.head)
        rows[head.native] = table_row(architecture, role=Role.embedding)
    return rows
