# SPDX-License-Identifier: Apache-2.0
"""Where each row of a Hugging Face tensor stands in a native checkpoint, without a model.

Told from the rows of the family (``megacpt.families.weights``): the views that fill a parameter are
taken of a tensor without memory, and their strides say which rows lie where. What names the tensors
get in the checkpoint is megatron-core's rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from megacpt.families.adapter import saved_rows
from megacpt.families.architecture import Architecture
from megacpt.families.saved import saved_key, saved_name
from megacpt.families.weights import Param


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows that follow each other in a source and in the native weight."""

    source: int
    """Which of the row's sources."""
    hf: int
    """The first row there."""
    native: int
    """The first row in the native weight."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeTensor:
    """A weight of one layer and expert, as the native checkpoint holds it."""

    key: str
    """Of the saved tensor, which may hold all layers and all experts."""
    index: tuple[int, ...]
    """Where in its leading dimensions the weight is: layer, expert."""
    leading: tuple[int, ...]
    """Their sizes."""
    shape: tuple[int, ...]
    """Of the weight; a filled-up vocabulary may have more rows."""
    names: tuple[str, ...]
    """The Hugging Face tensor of each source."""
    runs: tuple[Run, ...]
    """In the order of the native rows; together they are all of them."""
    frozen: bool
    """Float32 whatever the rest is."""

    @property
    def saved_shape(self) -> tuple[int, ...]:
        return (*self.leading, *self.shape)


def native_tensors(architecture: Architecture, *, stacked: bool) -> Iterator[NativeTensor]:
    """Every weight that is saved, in model order; ``stacked``: layers are entries of one tensor."""
    for row in saved_rows(architecture):
        runs, shape = (
            runs_of(row, architecture=architecture),
            _shape_of(row, architecture=architecture),
        )
        experts = architecture.experts
        for layer, expert in product(
            row.layers(architecture) if row.per_layer else (None,),
            range(experts.num) if row.per_expert and experts else (None,),
        ):
            index = [n for n in (layer if stacked else None, expert) if n is not None]
            sizes = [
                *([architecture.num_layers] if layer is not None and stacked else []),
                *([experts.num] if expert is not None and experts else []),
            ]
            yield NativeTensor(
                key=saved_key(
                    saved_name(row, architecture=architecture, layer=layer),
                    layer=None if stacked else layer,
                ),
                index=tuple(index),
                leading=tuple(sizes),
                shape=shape,
                names=tuple(s.name.format(layer=layer, expert=expert) for s in row.sources),
                runs=runs,
                frozen=row.frozen,
            )


def runs_of(row: Param, *, architecture: Architecture) -> tuple[Run, ...]:
    native = torch.empty(_shape_of(row, architecture=architecture), device="meta")
    elements = native[0].numel() if native.dim() > 1 else 1
    runs = []
    for number, view in enumerate(row.views(native, architecture=architecture, tp=1)):
        groups, count = view.shape[:2]
        assert view[0].is_contiguous(), f"{row.native} is not made of whole rows"
        for group in range(groups):
            first = (view.storage_offset() + group * view.stride(0)) // elements
            runs.append(Run(source=number, hf=group * count, native=first, count=count))
    return tuple(sorted(runs, key=lambda run: run.native))


def _shape_of(row: Param, *, architecture: Architecture) -> tuple[int, ...]:
    shapes = [source.shape(architecture) for source in row.sources]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])
