# SPDX-License-Identifier: Apache-2.0
"""What a frozen base in four or eight bits asks of the other settings."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import BaseWeights, DeviceKind, ParallelConfig, PrecisionConfig
from megacpt.errors import Violation
from megacpt.families import param_rows
from megacpt.families.architecture import Architecture
from megacpt.families.packing import NF4_BLOCK, is_packed, row_length
from megacpt.families.weights import Param
from megacpt.plan.precision import quantises
from megacpt.plan.rules.experts import expert_tensor_ranks
from megacpt.text import listed


def packed_base(
    packing: BaseWeights,
    *,
    precision: PrecisionConfig,
    parallel: ParallelConfig,
    device: DeviceKind,
    architecture: Architecture | None,
    path: str,
) -> Iterator[Violation]:
    """``path``: the setting that asks for it."""
    for allowed, rule, remedy in (
        (
            not quantises(precision),
            "has products in the run's own type, but precision.recipe="
            f"{precision.recipe.name} quantises them",
            f"set precision.recipe=none or {path}=null",
        ),
        (
            not parallel.sharded_weights,
            "is not possible with parallel.sharded_weights, which gathers weights of the run's "
            "type",
            "set parallel.sharded_weights=false: a packed base takes a quarter or half of the room",
        ),
        (
            device is not DeviceKind.gpu,
            "needs layers of plain modules, but on GPUs they are Transformer Engine's",
            f"set cluster.device=cpu or {path}=null",
        ),
    ):
        if not allowed:
            yield Violation(path=path, value=packing.name, rule=rule, remedy=remedy)
    sizes = parallel.tp, expert_tensor_ranks(parallel)
    if packing is BaseWeights.nf4 and architecture is not None and min(sizes) >= 1:
        yield from _rows(parallel, architecture=architecture, path=path)


def _rows(
    parallel: ParallelConfig, *, architecture: Architecture, path: str
) -> Iterator[Violation]:
    """A block within a row holds the same values on every layout; one across rows would not."""
    rows = [row for row in param_rows(architecture) if is_packed(row)]
    etp = expert_tensor_ranks(parallel)
    lengths = {
        row: row_length(
            row, architecture=architecture, ranks=etp if row.per_expert else parallel.tp
        )
        for row in rows
    }
    broken = {row: length for row, length in lengths.items() if length % NF4_BLOCK != 0}
    if not broken:
        return
    whole = [row_length(row, architecture=architecture, ranks=1) for row in broken]
    cuts = listed({_cut(row) for row in broken})
    of_rank = "" if max(parallel.tp, etp) == 1 else " on a rank"
    names = {f"{_module(row)} ({length:g})": None for row, length in broken.items()}
    yield Violation(
        path=path,
        value=BaseWeights.nf4.name,
        rule=f"packs {NF4_BLOCK} values of a row at a time, of which the rows{of_rank} are no "
        f"multiple: {listed(names)}",
        remedy=f"use {path}=int8"
        if any(length % NF4_BLOCK for length in whole)
        else f"use a smaller {cuts}, or {path}=int8",
    )


def _cut(row: Param) -> str:
    return "parallel.etp" if row.per_expert else "parallel.tp"


def _module(row: Param) -> str:
    return row.sources[0].name.split(".")[-2]
