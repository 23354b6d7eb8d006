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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from megacpt.families.architecture import Architecture, DeltaNet, Experts

if TYPE_CHECKING:
    from torch import Tensor


class Grouping(Enum):
    """How many groups a rank's native tensor has."""

    once = "once"
    """One: the parts lie one after another."""
    by_kv_head = "by_kv_head"
    """One for each key-value head of the rank."""
    by_delta_head = "by_delta_head"
    """One for each key head of the rank's gated delta net."""


class Role(Enum):
    """What a weight does: its first values, learning rate, decay and optimizer follow from it."""

    embedding = "embedding"
    head = "head"
    norm = "norm"
    scale = "scale"
    """Of a norm that is stored as it is, whatever the family's others are."""
    router = "router"
    linear = "linear"
    bias = "bias"
    convolution = "convolution"
    factor = "factor"
    """Of an adapter: it takes a layer's input, or stands between the two that do not learn."""
    factor_out = "factor_out"
    """Of an adapter: it gives a layer's output, and begins with zeros."""
    magnitude = "magnitude"
    """Of an adapter: the sizes of a weight's rows."""
    start = "start"
    """Of an adapter: a factor as it was at first, frozen."""


ADAPTER_ROLES = (Role.factor, Role.factor_out, Role.magnitude, Role.start)


def _always(_: Architecture) -> bool:
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
    in_layer: Callable[[Architecture, int], bool] = lambda _, _layer: True
    """Whether the layer (from 0) has it, of a weight that is not in all of them."""
    frozen: bool = False
    """Never trained, and float32 whatever the rest is, also in an export."""

    @property
    def per_expert(self) -> bool:
        return "{expert}" in self.native

    @property
    def of_adapter(self) -> bool:
        return self.role in ADAPTER_ROLES

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
        groups = self._groups(architecture, tp=tp)
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

    def _groups(self, architecture: Architecture, *, tp: int) -> int:
        if self.grouping is Grouping.by_kv_head:
            return architecture.num_kv_heads // tp
        if self.grouping is Grouping.by_delta_head:
            assert architecture.delta_net is not None
            return architecture.delta_net.key_heads // tp
        return 1

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
    tp_dim: int | None,
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
    tp_dim: int | None = None,
    engine: str | None = None,
    present: Callable[[Architecture], bool] = _always,
) -> tuple[Param, Param]:
    """The rows of a norm's scale and of its bias, where the family's norms have one; ``engine``:
    as far as both have it in common."""
    weight, bias = (
        Param(
            native=f"{native}.{name}",
            sources=(HfTensor(name=f"{source}.{name}", dims=(size,)),),
            role=role,
            tp_dim=tp_dim,
            engine=engine and f"{engine}_{name}",
            present=present,
        )
        for name, role in (("weight", Role.norm), ("bias", Role.bias))
    )
    return weight, replace(bias, present=lambda a: a.norms.bias and present(a))


def renamed(rows: tuple[Param, ...], *, names: Mapping[str, str]) -> tuple[Param, ...]:
    """The rows of a family that calls modules by names of its own: by megatron-core's names of
    modules that hold one tensor of the folder."""
    return tuple(_renamed(row, name=names.get(row.native.split(".")[-2])) for row in rows)


def _renamed(row: Param, *, name: str | None) -> Param:
    if name is None or len(row.sources) > 1:
        return row
    (source,) = row.sources
    parts = source.name.split(".")
    return replace(row, sources=(replace(source, name=".".join([*parts[:-2], name, parts[-1]])),))


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
    """First row of the part, in each group."""
    rows: int | None = None
    """How many rows of each group are the part's; ``None``: there is one group, of all rows."""
    group: int = 1
    """Rows of a group, where there are several: an attention head's, a pair's."""
    transposed: bool = False
    """It holds the part's rows as columns."""
    scales: str | None = None
    """Where it holds four-bit numbers (megacpt.families.stored.mxfp4), the tensor of their scales;
    ``shape`` counts the numbers."""
    optional: bool = False
    """Other folders of the family hold it under its own name."""

    def where(
        self, shape: tuple[int, ...], *, dim: int | None, span: slice | None
    ) -> tuple[slice, ...]:
        """The slices of the larger tensor that hold ``span`` along ``dim`` of the part, which has
        ``shape``, and of several groups all the rows; empty where that is all of it."""
        bounds = [slice(0, size) for size in shape]
        if dim is not None:
            assert span is not None
            bounds[dim] = span
        first, last = bounds[0].start, bounds[0].stop
        if self.rows is None:
            bounds[0] = slice(self.start + first, self.start + last)
        else:
            assert first % self.rows == last % self.rows == 0, "a cut goes through a group"
            bounds[0] = slice(first // self.rows * self.group, last // self.rows * self.group)
        if self.transposed:
            bounds.reverse()
        if self.index is not None:
            bounds.insert(0, slice(self.index, self.index + 1))
        whole = all(b == slice(0, size) for b, size in zip(bounds, self.shape, strict=True))
        return () if whole else tuple(bounds)

    def within(self, block: Tensor) -> Tensor:
        """The part, in what ``where`` names of the larger tensor: a view of it, its rows in their
        groups if there are several."""
        seen = block if self.index is None else block.squeeze(0)
        if self.transposed:
            seen = seen.transpose(0, 1)
        if self.rows is None:
            return seen
        groups = seen.view(len(seen) // self.group, self.group, *seen.shape[1:])
        return groups.narrow(1, self.start, self.rows)

    def taken(self, block: Tensor) -> Tensor:
        """The part's rows, one after another, out of what ``where`` names."""
        seen = self.within(block)
        return seen if self.rows is None else seen.flatten(0, 1)

    def whole_groups(self, span: slice) -> slice:
        """The rows of the part around ``span`` that ``where`` can name."""
        step = self.rows or 1
        return slice(span.start // step * step, -(-span.stop // step) * step)


def side_by_side(whole: str, *, rows: Mapping[str, int], width: int) -> Iterator[tuple[str, Part]]:
    """Each tensor by name, of so many rows, where a folder holds them one after the other."""
    start, shape = 0, (sum(rows.values()), width)
    for name, num in rows.items():
        yield name, Part(name=whole, shape=shape, start=start)
        start += num


def gate_and_up(architecture: Architecture, *, mlp: str) -> Iterator[tuple[str, Part]]:
    """Of the MLP of this name, whose folder holds them in one."""
    names = (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
    return side_by_side(
        f"{mlp}.gate_up_proj.weight",
        rows=dict.fromkeys(names, architecture.ffn_hidden_size),
        width=architecture.hidden_size,
    )


def _sizes(architecture: Architecture) -> dict[str, int]:
    return {
        "vocab": architecture.vocab_size,
        "hidden": architecture.hidden_size,
        "ffn": architecture.ffn_hidden_size,
        "head": architecture.head_dim,
        "heads": architecture.num_heads,
        "q": architecture.num_heads * architecture.head_dim,
        "kv": architecture.num_kv_heads * architecture.head_dim,
        "one": 1,
        "rank": architecture.adapter.rank if architecture.adapter else 0,
        "dense_ffn": architecture.dense_ffn_hidden_size,
        **_expert_sizes(architecture.experts),
        **_latent_sizes(architecture),
        **_delta_sizes(architecture.delta_net),
    }


def _delta_sizes(net: DeltaNet | None) -> dict[str, int]:
    if net is None:
        return {}
    keys, values = net.key_heads * net.key_dim, net.value_heads * net.value_dim
    return {
        "delta_k": keys,
        "delta_v": values,
        "delta_qkvz": 2 * (keys + values),
        "delta_heads": net.value_heads,
        "delta_ba": 2 * net.value_heads,
        "delta_value": net.value_dim,
        "delta_kernel": net.kernel,
    }


def _expert_sizes(experts: Experts | None) -> dict[str, int]:
    if experts is None:
        return {}
    shared = experts.shared_ffn_hidden_size
    return {"experts": experts.num, "shared_ffn": shared or 0}


def _latent_sizes(architecture: Architecture) -> dict[str, int]:
    latent, heads = architecture.latent, architecture.num_heads
    if latent is None:
        return {}
    return {
        "q_rank": latent.query_rank or 0,
        "kv_rank": latent.kv_rank,
        "kv_rank_and_rotated": latent.kv_rank + architecture.head_dim,
        "latent_q": heads * (latent.plain_dim + architecture.head_dim),
        "latent_kv": heads * (latent.plain_dim + latent.value_dim),
        "latent_out": heads * latent.value_dim,
    }
