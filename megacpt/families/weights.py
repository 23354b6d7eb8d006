# SPDX-License-Identifier: Apache-2.0
"""One row per weight: its native name, the Hugging Face tensors it is packed from, how it is cut.

A family lists its rows once. Loading, exporting, random initialisation, tensor-parallel slicing and
shape checks all read the same row, so the two directions cannot disagree. Counts of parameters,
memory and the optimizer's groups are sums and selections over the rows. Free of torch: only tensor
methods are called.

Grouping. A native matrix may hold several Hugging Face matrices:

    fc1 of a gated MLP      gate rows, then up rows (of this rank)
    qkv                     for each key-value head: its query heads' rows, its key, its value

Both are one rule. Seen as (groups, rows a group, ...), the parts lie side by side along dim 1;
fc1 has one group a rank, qkv one for each key-value head.

Experts. A row with ``{expert}`` in its names stands for that weight of every expert. Experts are
dealt whole to the expert-parallel ranks and each is cut over the expert-tensor-parallel ones, so
for such a row these are the ranks that ``tp`` and ``rank`` below count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from megacpt.families.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor


class Grouping(Enum):
    """How many groups a rank's native tensor has."""

    once = "once"
    """One: the parts lie one after another."""
    by_kv_head = "by_kv_head"
    """One for each key-value head of the rank."""


class Role(Enum):
    """What a weight does: its first values, learning rate, decay and optimizer follow from it."""

    embedding = "embedding"
    head = "head"
    norm = "norm"
    router = "router"
    linear = "linear"
    bias = "bias"


def _always(_: Architecture) -> bool:
    return True


def _everywhere(_: Architecture, _layer: int) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class HfTensor:
    """A Hugging Face tensor: its name (``{layer}``, ``{expert}`` open), the names of its sizes."""

    name: str
    dims: tuple[str, ...]

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        sizes = _sizes(architecture)
        return tuple(sizes[dim] for dim in self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A native weight and the Hugging Face tensors packed into it."""

    native: str
    """megatron-core's name, ``{layer}`` and ``{expert}`` open (both counted over the whole model
    from 0)."""
    sources: tuple[HfTensor, ...]
    role: Role = Role.linear
    tp_dim: int | None = None
    """Which dimension tensor parallelism cuts; ``None``: the same on every rank."""
    grouping: Grouping = Grouping.once
    engine: str | None = None
    """The name within Transformer Engine's modules, where it is another: a norm fused into the
    linear layer after it, an expert grouped with the others."""
    present: Callable[[Architecture], bool] = _always
    in_layer: Callable[[Architecture, int], bool] = _everywhere
    """Whether the layer (from 0) has it, of a weight that is not in all of them."""

    @property
    def per_expert(self) -> bool:
        return "{expert}" in self.native

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.native

    def layers(self, architecture: Architecture) -> tuple[int, ...]:
        """Those that have it."""
        every = range(architecture.num_layers)
        return tuple(layer for layer in every if self.in_layer(architecture, layer))

    def num_values(
        self, architecture: Architecture, *, layers: Collection[int] | None = None
    ) -> int:
        """In ``layers`` (default: all), all experts of each counted."""
        copies = 1
        if self.per_layer:
            held = self.layers(architecture)
            copies = len(held) if layers is None else len(set(held).intersection(layers))
        if self.per_expert and architecture.experts is not None:
            copies *= architecture.experts.num
        return copies * sum(math.prod(source.shape(architecture)) for source in self.sources)

    def views(self, shard: Tensor, *, architecture: Architecture, tp: int) -> list[Tensor]:
        """For each source the part of a rank's native tensor it fills: (groups, rows, ...)."""
        groups = architecture.num_kv_heads // tp if self.grouping is Grouping.by_kv_head else 1
        grouped = shard.view(groups, shard.shape[0] // groups, *shard.shape[1:])
        if len(self.sources) == 1:
            return [grouped]
        cut = tp if self.tp_dim == 0 else 1
        views, start = [], 0
        for source in self.sources:
            rows = source.shape(architecture)[0] // cut // groups
            views.append(grouped.narrow(1, start, rows))
            start += rows
        return views

    def span(
        self, view: Tensor, *, source: HfTensor, architecture: Architecture, rank: int
    ) -> slice:
        """Which indices of the source along ``tp_dim`` a rank's view holds.

        A padded vocabulary makes the last ranks' spans shorter than their views, or empty.
        """
        assert self.tp_dim is not None
        size = source.shape(architecture)[self.tp_dim]
        local = view.shape[0] * view.shape[1] if self.tp_dim == 0 else view.shape[1 + self.tp_dim]
        return slice(min(rank * local, size), min((rank + 1) * local, size))


def linear(
    native: str,
    *,
    sources: tuple[tuple[str, str, str], ...],
    tp_dim: int,
    bias: Callable[[Architecture], bool],
    grouping: Grouping = Grouping.once,
) -> tuple[Param, Param]:
    """Weight and bias rows of a linear layer; ``sources`` are (name, output size, input size)."""
    weight = Param(
        native=f"{native}.weight",
        sources=tuple(HfTensor(name=f"{n}.weight", dims=(out, into)) for n, out, into in sources),
        tp_dim=tp_dim,
        grouping=grouping,
    )
    # The bias of a layer cut along its inputs is added once, after the ranks' sums are reduced.
    bias_row = Param(
        native=f"{native}.bias",
        sources=tuple(HfTensor(name=f"{n}.bias", dims=(out,)) for n, out, _ in sources),
        tp_dim=0 if tp_dim == 0 else None,
        grouping=grouping,
        role=Role.bias,
        present=bias,
    )
    return weight, bias_row


def norm(
    native: str,
    *,
    source: str,
    size: str = "hidden",
    engine: str | None = None,
    present: Callable[[Architecture], bool] = _always,
) -> Param:
    """The row of an RMSNorm's scale."""
    return Param(
        native=native,
        sources=(HfTensor(name=source, dims=(size,)),),
        role=Role.norm,
        engine=engine,
        present=present,
    )


def vocabulary(
    native: str, *, source: str, role: Role, present: Callable[[Architecture], bool] = _always
) -> Param:
    """The row of an embedding or output matrix, cut along the vocabulary."""
    return Param(
        native=native,
        sources=(HfTensor(name=source, dims=("vocab", "hidden")),),
        role=role,
        tp_dim=0,
        present=present,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Where a folder holds a tensor, if not under its own name: as part of a larger one."""

    name: str
    """Of the larger tensor."""
    shape: tuple[int, ...]
    index: int | None = None
    """Along its first dimension, which the part lacks; ``None``: it has as many dimensions."""
    start: int = 0
    """First row of the part."""

    def where(
        self, shape: tuple[int, ...], *, dim: int | None, span: slice | None
    ) -> tuple[slice, ...]:
        """The slices of the larger tensor that hold ``span`` along ``dim`` of the part, which has
        ``shape``; empty where that is all of it."""
        bounds = [slice(0, size) for size in shape]
        if dim is not None:
            assert span is not None
            bounds[dim] = span
        rows = bounds[0]
        bounds[0] = slice(self.start + rows.start, self.start + rows.stop)
        if self.index is not None:
            bounds.insert(0, slice(self.index, self.index + 1))
        whole = all(b == slice(0, size) for b, size in zip(bounds, self.shape, strict=True))
        return () if whole else tuple(bounds)


def _sizes(architecture: Architecture) -> dict[str, int]:
    return {
        "vocab": architecture.vocab_size,
        "hidden": architecture.hidden_size,
        "ffn": architecture.ffn_hidden_size,
        "head": architecture.head_dim,
        "q": architecture.num_heads * architecture.head_dim,
        "kv": architecture.num_kv_heads * architecture.head_dim,
        "experts": architecture.experts.num if architecture.experts else 0,
    }
