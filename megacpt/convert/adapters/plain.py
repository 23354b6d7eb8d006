# SPDX-License-Identifier: Apache-2.0
"""LoRA-XS and PiSSA as the LoRA that they are once trained; LoRA and DoRA stay what they are.

LoRA-XS's core goes into B. PiSSA's update is the difference of two products: LoRA of twice the
rank, whose second half is what it began with. Factors are named as their rows are
(``megacpt.families.adapter``), and float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import torch

from megacpt.convert.sources import SourceModel, SourceTensor
from megacpt.families.adapter import (
    A_START,
    B_START,
    CORE,
    MAGNITUDE,
    A,
    B,
    Updated,
    factor_name,
    updated,
)
from megacpt.families.architecture import Adapter


def plain_lora(source: SourceModel) -> SourceModel:
    """Of an adapter; what was trained beside it is there as well."""
    adapter = source.architecture.adapter
    assert adapter is not None
    found = {name: held for name, held in source.tensors.items() if ".lora_" not in name}
    for each in updated(source.architecture):
        found |= dict(_factors(each, source=source, adapter=adapter))
    return replace(
        source,
        architecture=replace(source.architecture, adapter=_as_lora(adapter)),
        tensors=found,
    )


def _as_lora(adapter: Adapter) -> Adapter:
    """The scale stays as it is."""
    times = 2 if adapter.has_start else 1
    alpha = adapter.alpha * (times**0.5 if adapter.rank_stabilised else times)
    method = "dora" if adapter.has_magnitudes else "lora"
    return replace(adapter, method=method, rank=adapter.rank * times, alpha=alpha)


def _factors(
    each: Updated, *, source: SourceModel, adapter: Adapter
) -> Iterator[tuple[str, SourceTensor]]:
    def held(factor: str) -> tuple[str, SourceTensor]:
        of = each.module if factor in (A, A_START, CORE) else each.weight
        name = factor_name(of, factor=factor)
        return name, source.tensors[name]

    (inner, a), (outer, b) = held(A), held(B)
    if adapter.has_core:
        b = _through(b, core=held(CORE)[1])
    if adapter.has_start:
        a, b = _below(a, other=held(A_START)[1]), _without(b, start=held(B_START)[1])
    yield inner, a
    yield outer, b
    if adapter.has_magnitudes:
        yield held(MAGNITUDE)


class ComputedRows(Protocol):
    """As ``SourceTensor.rows``."""

    def __call__(self, first: int, *, count: int) -> torch.Tensor: ...


def computed(shape: tuple[int, ...], *, rows: ComputedRows) -> SourceTensor:
    """A float32 tensor whose ``rows`` are computed."""

    def fill(out: torch.Tensor, *, first: int) -> None:
        out.copy_(rows(first, count=len(out)))

    return SourceTensor(shape=shape, dtype=torch.float32, fill=fill)


def computed_whole(shape: tuple[int, ...], *, whole: Callable[[], torch.Tensor]) -> SourceTensor:
    """... of which all is computed, whichever rows are asked for."""
    return computed(shape, rows=lambda first, count: whole()[first : first + count])


def in_memory(values: torch.Tensor) -> SourceTensor:
    return computed_whole(tuple(values.shape), whole=lambda: values)


def _through(b: SourceTensor, *, core: SourceTensor) -> SourceTensor:
    return computed(
        b.shape,
        rows=lambda first, count: b.rows(first, count=count).float() @ core.whole().float(),
    )


def _below(a: SourceTensor, *, other: SourceTensor) -> SourceTensor:
    shape = (a.shape[0] + other.shape[0], *a.shape[1:])
    return computed_whole(
        shape, whole=lambda: torch.cat([a.whole().float(), other.whole().float()])
    )


def _without(b: SourceTensor, *, start: SourceTensor) -> SourceTensor:
    def rows(first: int, *, count: int) -> torch.Tensor:
        now, then = (t.rows(first, count=count).float() for t in (b, start))
        return torch.cat([now, -then], dim=1)

    return computed((b.shape[0], b.shape[1] + start.shape[1]), rows=rows)
