# SPDX-License-Identifier: Apache-2.0
"""The weights of an adapter: one row a factor, made of the row of the weight that it updates.

A factor of a Hugging Face module is a tensor of its own, named as PEFT names it, so that an adapter
is read and written as any weights are. The factors of the modules that are packed into one native
weight are packed as well (M modules of rank R, I inputs, O outputs):

    A             (M R, I)   those that take the input, one below the other
    B             (O, R)     those that give the output, their rows in the native weight's order
    core          (M R, R)   of LoRA-XS, between both, which are frozen
    magnitude     (O)        of DoRA, in the native weight's order
    A_start, B_start         of PiSSA: A and B as they were at first, frozen

With tensor parallelism a factor is cut along with the weight, or whole on every rank where it has
not the dimension that is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from megacpt.families import family_of, param_rows
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.weights import ADAPTER_ROLES, Grouping, HfTensor, Param, Role

ADAPTER = "adapter"
"""Of the module in a native linear layer that holds the factors."""
A, B, CORE, MAGNITUDE = "A", "B", "core", "magnitude"
A_START, B_START = "A_start", "B_start"
OF_EXPERT = ".weight{expert}"
"""Ends Transformer Engine's name of a weight in a layer of all experts."""
_WEIGHT = ".weight"
_ENDINGS = {
    A: "lora_A.weight",
    B: "lora_B.weight",
    CORE: "lora_core.weight",
    MAGNITUDE: "lora_magnitude_vector",
    A_START: "lora_start_A.weight",
    B_START: "lora_start_B.weight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A native linear layer that has an adapter."""

    row: Param
    """Of its weight."""
    modules: tuple[str, ...]
    """The Hugging Face modules that are packed into it and have one, ``{layer}`` open."""
    sources: tuple[HfTensor, ...]
    """The weight's tensors that these hold, in order."""
    module_of: tuple[int, ...]
    """Of each of these: which of ``modules``."""
    factors: tuple[Param, ...]
    """A row for each, in the order of the module's docstring."""

    @property
    def layers(self) -> Iterator[str]:
        """Native names of the layer, and of all experts' where it is one of them."""
        yield self.row.native.removesuffix(_WEIGHT)
        if self.row.engine is not None and self.row.engine.endswith(OF_EXPERT):
            yield self.row.engine.removesuffix(OF_EXPERT)


def factor_name(of: str, *, factor: str) -> str:
    """Of a factor of a module: A and core. Those with a row for each output are of a tensor of the
    model, several of which may be a module together (Phi's qkv_proj)."""
    return f"{of.removesuffix(_WEIGHT)}.{_ENDINGS[factor]}"


def adapter_of(stated: object) -> Adapter | None:
    """As a checkpoint's manifest states it."""
    if not isinstance(stated, Mapping):
        return None
    lists = {key: tuple(stated[key]) for key in ("modules", "layers")}
    return Adapter(**{**stated, **lists})


def saved_rows(architecture: Architecture) -> tuple[Param, ...]:
    """Of what a checkpoint holds: all weights, or the factors and what is trained beside them."""
    rows = param_rows(architecture)
    if architecture.adapter is None:
        return rows
    trained = (row for row in rows if is_trained(row, architecture=architecture))
    return (*trained, *adapter_rows(architecture))


def adapter_rows(architecture: Architecture) -> tuple[Param, ...]:
    """Of all factors; none without an adapter."""
    return tuple(row for linear in adapted_linears(architecture) for row in linear.factors)


def is_trained(row: Param, *, architecture: Architecture) -> bool:
    """Beside an adapter; without one all but frozen rows are."""
    adapter = architecture.adapter
    if adapter is None:
        return not row.frozen
    if row.role in ADAPTER_ROLES:
        frozen_factor = adapter.has_core and not row.native.endswith(f".{CORE}")
        return row.role is not Role.start and not frozen_factor
    return (adapter.embedding and row.role is Role.embedding) or (
        adapter.head and row.role is Role.head
    )


def adapted_linears(architecture: Architecture) -> Iterator[Linear]:
    """In model order."""
    adapter = architecture.adapter
    if adapter is None:
        return
    whole = _Modules(architecture)
    for row in param_rows(architecture):
        if not _can_have(row):
            continue
        named = [(whole.of(s, row=row), s) for s in row.sources]
        wanted = [(name, source) for name, source in named if name in adapter.modules]
        modules = tuple(dict.fromkeys(name for name, _ in wanted))
        layers = set(row.layers(architecture)).intersection(adapter.layers)
        if wanted and layers:
            linear = Linear(
                row=replace(row, in_layer=_among(frozenset(layers))),
                modules=modules,
                sources=tuple(source for _, source in wanted),
                module_of=tuple(modules.index(name) for name, _ in wanted),
                factors=(),
            )
            yield replace(linear, factors=tuple(_factors(linear, architecture=architecture)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """A tensor of the model that has an update."""

    weight: str
    module: str
    """The Hugging Face module that holds it; A and core are of this."""
    shape: tuple[int, ...]


def updated(architecture: Architecture) -> Iterator[Updated]:
    """Every one of them, in model order."""
    for linear in adapted_linears(architecture):
        experts = range(architecture.experts.num) if architecture.experts else ()
        of_expert = experts if linear.row.per_expert else (None,)
        for layer, expert in product(linear.row.layers(architecture), of_expert):
            for source, module in zip(linear.sources, linear.module_of, strict=True):
                yield Updated(
                    weight=source.name.format(layer=layer, expert=expert),
                    module=linear.modules[module].format(layer=layer, expert=expert),
                    shape=source.shape(architecture),
                )


def linear_modules(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """All that can have an adapter and the layers that they are in, in model order; ``{layer}`` and
    ``{expert}`` are open in the names."""
    whole = _Modules(architecture)
    rows = [row for row in param_rows(architecture) if _can_have(row)]
    return {whole.of(s, row=row): row.layers(architecture) for row in rows for s in row.sources}


def _can_have(row: Param) -> bool:
    """Those of the layers that tensor parallelism cuts."""
    return row.role is Role.linear and row.tp_dim is not None


class _Modules:
    """The Hugging Face modules that hold the weights."""

    def __init__(self, architecture: Architecture) -> None:
        family = family_of(architecture)
        self._architecture = architecture
        self._parts = family.parts(architecture) if family.fused else {}

    def of(self, source: HfTensor, *, row: Param) -> str:
        """``{layer}`` and ``{expert}`` open; some hold others beside it (Phi's qkv_proj)."""
        layer = next(iter(row.layers(self._architecture)), 0)
        part = self._parts.get(source.name.format(layer=layer, expert=0))
        # Experts that lie in one tensor are modules of their own all the same.
        if part is None or part.index is not None:
            return source.name.removesuffix(_WEIGHT)
        return part.name.removesuffix(_WEIGHT).replace(f".{layer}.", ".{layer}.", 1)


def _among(layers: frozenset[int]) -> Callable[[Architecture, int], bool]:
    return lambda _, layer: layer in layers


def _factors(linear: Linear, *, architecture: Architecture) -> Iterator[Param]:
    adapter, row = architecture.adapter, linear.row
    assert adapter is not None
    column, into = row.tp_dim == 0, linear.sources[0].dims[1]
    inner = replace(
        row,
        role=Role.factor,
        grouping=Grouping.once,
        sources=_named(linear.modules, factor=A, dims=("rank", into)),
        tp_dim=1 if row.tp_dim == 1 else None,
    )
    outer = replace(
        row,
        role=Role.factor_out,
        sources=tuple(
            HfTensor(name=factor_name(source.name, factor=B), dims=(source.dims[0], "rank"))
            for source in linear.sources
        ),
        tp_dim=0 if column else None,
    )
    yield _called(inner, name=A)
    yield _called(outer, name=B)
    if adapter.has_core:
        core = replace(
            inner,
            sources=_named(linear.modules, factor=CORE, dims=("rank", "rank")),
            tp_dim=None,
        )
        yield _called(core, name=CORE)
    if adapter.has_magnitudes:
        sizes = tuple(
            HfTensor(name=factor_name(source.name, factor=MAGNITUDE), dims=source.dims[:1])
            for source in linear.sources
        )
        yield _called(replace(outer, role=Role.magnitude, sources=sizes), name=MAGNITUDE)
    if adapter.has_start:
        for factor, name in ((inner, A_START), (outer, B_START)):
            yield _called(replace(_renamed(factor), role=Role.start), name=name)


def _named(modules: tuple[str, ...], *, factor: str, dims: tuple[str, ...]) -> tuple[HfTensor, ...]:
    return tuple(HfTensor(name=factor_name(m, factor=factor), dims=dims) for m in modules)


def _renamed(row: Param) -> Param:
    """With the ending of a factor's first values."""
    sources = tuple(replace(s, name=s.name.replace(".lora_", ".lora_start_")) for s in row.sources)
    return replace(row, sources=sources)


def _called(row: Param, *, name: str) -> Param:
    """Experts that are grouped in one layer have each its own."""
    engine = None
    if row.engine is not None and row.engine.endswith(OF_EXPERT):
        engine = f"{row.engine.removesuffix(OF_EXPERT)}.{ADAPTER}.{{expert}}.{name}"
    native = f"{row.native.removesuffix(_WEIGHT)}.{ADAPTER}.{name}"
    return replace(row, native=native, engine=engine)
