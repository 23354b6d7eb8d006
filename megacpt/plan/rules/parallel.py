# SPDX-License-Identifier: Apache-2.0
"""What the layout (parallel.*) must keep with the model, the batch and the samples' length.

Experts have their rules in megacpt.plan.rules.experts, sharded weights and offloading theirs in
megacpt.plan.rules.optim. megacpt.plan.nearest_layout finds the layout that breaks none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from megacpt.config.limits import beyond_limits
from megacpt.config.sections import DataConfig, ParallelConfig, Recompute, RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
from megacpt.plan.layers_per_stage import stage_layers
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import sequence_lengths
from megacpt.text import one_of


def _layout(facts: Facts) -> Iterator[Violation]:
    config, architecture = facts.config, facts.architecture
    sizes = min(config.data.micro_batch_size, config.data.global_batch_size)
    if sizes < 1 or any(beyond_limits(config.parallel)):
        return
    if architecture is not None:
        yield from _tensor(config.parallel, architecture=architecture)
        yield from _pipeline(config.parallel, num_layers=architecture.num_layers)
        yield from _recompute(config.parallel, num_layers=architecture.num_layers)
    yield from _virtual_stages(config)
    yield from _batch(config)
    yield from _context(config)
    yield from _sequence_parallel(config)
    yield from _overlap(config.parallel)
    yield from _started(config.parallel, num_ranks=facts.num_ranks)


def divisors(number: int, *, limit: int = 1024) -> list[int]:
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]


def common_tensor_size(architecture: Architecture) -> int:
    """What tp must divide; experts are cut by etp."""
    return math.gcd(*_tensor_sizes(architecture).values())


def batch_sizes(data: DataConfig) -> dict[str, int]:
    """Setting -> size, the start's and those of the stages."""
    stages = {
        f"data.stages.{name}.global_batch_size": stage.global_batch_size
        for name, stage in data.stages.items()
        if stage.global_batch_size is not None
    }
    return {"data.global_batch_size": data.global_batch_size} | stages


def batch_unit(config: RunConfig) -> int:
    """Global batches are multiples of this."""
    parallel = config.parallel
    groups = parallel.pp if parallel.vpp > 1 else 1
    return config.data.micro_batch_size * parallel.dp * groups


def neighbours(value: int, *, unit: int) -> list[int]:
    """The multiples of ``unit`` on both sides of ``value``."""
    below = value // unit * unit
    return [n for n in (below, below + unit) if n > 0]


def _tensor_sizes(architecture: Architecture) -> dict[str, int]:
    sizes = {
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
    }
    if architecture.delta_net is not None:
        sizes["linear_num_key_heads"] = architecture.delta_net.key_heads
    return sizes | mlp_sizes(architecture)


def mlp_sizes(architecture: Architecture) -> dict[str, int]:
    """Of those that all tokens pass."""
    experts, sizes = architecture.experts, dict[str, int]()
    if experts is None or experts.dense_layers:
        sizes["intermediate_size"] = architecture.dense_ffn_hidden_size
    if experts is not None and experts.shared_ffn_hidden_size is not None:
        sizes["intermediate_size of shared experts"] = experts.shared_ffn_hidden_size
    return sizes


def _tensor(parallel: ParallelConfig, *, architecture: Architecture) -> Iterator[Violation]:
    for name, size in _tensor_sizes(architecture).items():
        if size % parallel.tp != 0:
            yield Violation(
                path="parallel.tp",
                value=parallel.tp,
                rule=f"does not divide {name}={size}",
                remedy=f"use {one_of(divisors(common_tensor_size(architecture)))}",
            )


def _pipeline(parallel: ParallelConfig, *, num_layers: int) -> Iterator[Violation]:
    if (parallel.first_stage_layers, parallel.last_stage_layers) != (None, None):
        yield from _uneven(parallel, num_layers=num_layers)
    elif num_layers % parallel.pp != 0:
        yield Violation(
            path="parallel.pp",
            value=parallel.pp,
            rule=f"does not divide num_hidden_layers={num_layers}",
            remedy=f"use {one_of(divisors(num_layers))}, or uneven stages "
            "(parallel.first_stage_layers, parallel.last_stage_layers)",
        )
    elif num_layers % (parallel.pp * parallel.vpp) != 0:
        yield Violation(
            path="parallel.vpp",
            value=parallel.vpp,
            rule=f"times pp={parallel.pp} does not divide num_hidden_layers={num_layers}",
            remedy=f"use {one_of(divisors(num_layers // parallel.pp))}",
        )


def _uneven(parallel: ParallelConfig, *, num_layers: int) -> Iterator[Violation]:
    """One violation, of the first of both settings: they must fit together."""
    name = "last_stage_layers" if parallel.first_stage_layers is None else "first_stage_layers"
    path, value = f"parallel.{name}", getattr(parallel, name)
    if parallel.pp == 1:
        rule, remedy = "needs more than one pipeline rank, but parallel.pp=1", f"use {path}=null"
        yield Violation(path=path, value=value, rule=rule, remedy=remedy)
        return
    if stage_layers(num_layers, parallel=parallel):
        return
    beside = {"pp": parallel.pp, "vpp": parallel.vpp}
    if name == "first_stage_layers" and parallel.last_stage_layers is not None:
        beside["last_stage_layers"] = parallel.last_stage_layers
    possible = [
        n
        for n in range(1, num_layers)
        if _deals(parallel, name=name, layers=n, num_layers=num_layers)
    ]
    yield Violation(
        path=path,
        value=value,
        rule=f"with {', '.join(f'{n}={v}' for n, v in beside.items())} leaves layers that cannot "
        f"be dealt evenly, of num_hidden_layers={num_layers}",
        remedy=f"use {one_of(possible)}" if possible else f"use {path}=null",
    )


def _deals(parallel: ParallelConfig, *, name: str, layers: int, num_layers: int) -> bool:
    changes: dict[str, Any] = {name: layers}
    return bool(stage_layers(num_layers, parallel=replace(parallel, **changes)))


def _recompute(parallel: ParallelConfig, *, num_layers: int) -> Iterator[Violation]:
    wanted, stages = parallel.recompute_layers, stage_layers(num_layers, parallel=parallel)
    if wanted is None:
        return
    if parallel.recompute is not Recompute.full:
        yield Violation(
            path="parallel.recompute_layers",
            value=wanted,
            rule=f"needs parallel.recompute=full, but it is {parallel.recompute.name}",
            remedy="set parallel.recompute=full or parallel.recompute_layers=null",
        )
    most = max(stages, default=0) // parallel.vpp
    if stages and wanted > most:
        yield Violation(
            path="parallel.recompute_layers",
            value=wanted,
            rule=f"is above the {most} layers of a stage",
            remedy=f"use {most} or less, or null for all",
        )


def _virtual_stages(config: RunConfig) -> Iterator[Violation]:
    data, parallel = config.data, config.parallel
    if parallel.vpp == 1:
        return
    if parallel.pp == 1:
        yield Violation(
            path="parallel.vpp",
            value=parallel.vpp,
            rule=f"needs more than one pipeline rank, but parallel.pp={parallel.pp}",
            remedy="use parallel.vpp=1 or parallel.pp=2",
        )
        return
    replica_batch = data.micro_batch_size * parallel.dp
    for path, size in batch_sizes(data).items():
        microbatches, rest = divmod(size, replica_batch)
        if rest == 0 and microbatches % parallel.pp != 0:
            yield Violation(
                path=path,
                value=size,
                rule=f"gives {microbatches} microbatches, which the interleaved schedule cannot "
                f"deal to parallel.pp={parallel.pp}",
                remedy=f"use {one_of(neighbours(size, unit=batch_unit(config)))}",
            )


def _batch(config: RunConfig) -> Iterator[Violation]:
    data, parallel = config.data, config.parallel
    for path, size in batch_sizes(data).items():
        if size >= 1 and size % (data.micro_batch_size * parallel.dp) != 0:
            yield Violation(
                path=path,
                value=size,
                rule=f"is no multiple of micro_batch_size={data.micro_batch_size} "
                f"* dp={parallel.dp}",
                remedy=f"use {one_of(neighbours(size, unit=batch_unit(config)))}",
            )


def _context(config: RunConfig) -> Iterator[Violation]:
    data, cp = config.data, config.parallel.cp
    if cp == 1:
        return
    if data.document_mask:
        yield Violation(
            path="data.document_mask",
            value="true",
            rule=f"needs whole samples on every rank, but parallel.cp={cp} cuts them",
            remedy="use data.document_mask=false or parallel.cp=1",
        )
    for path, length in sequence_lengths(data).items():
        if length >= 1 and length % (2 * cp) != 0:
            yield Violation(
                path=path,
                value=length,
                rule=f"cannot be cut into 2 * parallel.cp={2 * cp} equal chunks",
                remedy=f"use {one_of(neighbours(length, unit=length_unit(config.parallel)))}",
            )


def length_unit(parallel: ParallelConfig) -> int:
    """Sequence lengths are multiples of this."""
    chunks = 2 * parallel.cp if parallel.cp > 1 else 1
    shares = parallel.tp * parallel.cp if parallel.sequence_parallel else 1
    return math.lcm(chunks, shares)


def _sequence_parallel(config: RunConfig) -> Iterator[Violation]:
    parallel = config.parallel
    if not parallel.sequence_parallel:
        return
    if parallel.tp == 1:
        yield Violation(
            path="parallel.sequence_parallel",
            value="true",
            rule="needs more than one tensor-parallel rank, but parallel.tp=1",
            remedy="use parallel.sequence_parallel=false or parallel.tp=2",
        )
        return
    shares = parallel.tp * parallel.cp
    cut = f"parallel.tp={parallel.tp}" + (f" * cp={parallel.cp}" if parallel.cp > 1 else "")
    for path, length in sequence_lengths(config.data).items():
        if length >= 1 and length % shares != 0:
            yield Violation(
                path=path,
                value=length,
                rule=f"is no multiple of {cut}, which sequence_parallel needs",
                remedy=f"use {one_of(neighbours(length, unit=length_unit(parallel)))}",
            )


def _overlap(parallel: ParallelConfig) -> Iterator[Violation]:
    if not parallel.overlap_param_gather:
        return
    for name, is_set in {
        "distributed_optimizer": parallel.distributed_optimizer,
        "overlap_grad_reduce": parallel.overlap_grad_reduce,
    }.items():
        if not is_set:
            yield Violation(
                path="parallel.overlap_param_gather",
                value="true",
                rule=f"needs parallel.{name}",
                remedy=f"set parallel.{name}=true",
            )


def _started(parallel: ParallelConfig, *, num_ranks: int | None) -> Iterator[Violation]:
    needed = parallel.num_ranks
    if num_ranks is None or num_ranks == needed:
        return
    replicas, rest = divmod(num_ranks, parallel.tp * parallel.cp * parallel.pp)
    remedy = f"start {needed} ranks" + (
        f" or use parallel.dp={replicas}" if replicas and not rest else ""
    )
    yield Violation(
        path="parallel.dp",
        value=parallel.dp,
        rule=f"with tp={parallel.tp}, cp={parallel.cp} and pp={parallel.pp} makes {needed} ranks, "
        f"but {num_ranks} were started",
        remedy=remedy,
    )


RULES: tuple[Rule, ...] = (_layout,)
