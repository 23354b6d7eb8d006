# SPDX-License-Identifier: Apache-2.0
"""What a mixture of experts asks of the layout, and what only a model with experts can be asked."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import ParallelConfig, RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture, Experts
from megacpt.plan.rules.data import sequence_lengths
from megacpt.text import one_of


def expert_tensor_ranks(parallel: ParallelConfig) -> int:
    """Ranks that one expert is cut over."""
    return parallel.tp if parallel.etp is None else parallel.etp


def expert_violations(
    config: RunConfig, *, architecture: Architecture | None
) -> Iterator[Violation]:
    """``architecture``: ``None`` while it is not known; then only what does not depend on it."""
    parallel = config.parallel
    etp = expert_tensor_ranks(parallel)
    yield from _coefficient_violations(config.model.router_aux_loss_coef)
    if architecture is None or min(etp, parallel.tp, parallel.cp, parallel.dp, parallel.ep) < 1:
        return
    yield from _window_violations(config, architecture=architecture)
    if architecture.experts is None:
        yield from _dense_violations(config, architecture=architecture)
        return
    yield from _deal_violations(parallel, experts=architecture.experts)
    yield from _cut_violations(parallel, architecture=architecture)
    yield from _sharding_violations(parallel)


def _coefficient_violations(coefficient: float | None) -> Iterator[Violation]:
    if coefficient is not None and not (coefficient >= 0 and math.isfinite(coefficient)):
        yield Violation(
            path="model.router_aux_loss_coef",
            value=coefficient,
            rule="is not a number from 0 up",
            remedy="0.001 to 0.02 is usual, null takes the base model's",
        )


def _window_violations(config: RunConfig, *, architecture: Architecture) -> Iterator[Violation]:
    """Attention here sees the whole sample, so a window that would cut it changes the model."""
    window = architecture.sliding_window
    if window is None:
        return
    for path, length in sequence_lengths(config.data).items():
        if length > window:
            yield Violation(
                path=path,
                value=length,
                rule=f"is above the model's sliding_window={window}, which is not applied",
                remedy=f"use {window} or less",
            )


def _dense_violations(config: RunConfig, *, architecture: Architecture) -> Iterator[Violation]:
    parallel = config.parallel
    for path, value, neutral in (
        ("parallel.ep", parallel.ep, 1),
        ("parallel.etp", parallel.etp, None),
        ("model.router_aux_loss_coef", config.model.router_aux_loss_coef, None),
    ):
        if value != neutral:
            yield Violation(
                path=path,
                value=value,
                rule=f"needs a model with experts, but this {architecture.family} has none",
                remedy=f"use {path}={'null' if neutral is None else neutral}",
            )


def _deal_violations(parallel: ParallelConfig, *, experts: Experts) -> Iterator[Violation]:
    """Each expert-parallel rank holds equally many experts, and all ranks of a stage hold some."""
    etp, ranks = expert_tensor_ranks(parallel), parallel.tp * parallel.cp * parallel.dp
    if ranks % etp != 0:
        yield Violation(
            path="parallel.etp",
            value=etp,
            rule=f"does not divide the {ranks} ranks of a pipeline stage (tp * cp * dp)",
            remedy=f"use {one_of(_divisors(ranks))}",
        )
        return
    possible = _divisors(math.gcd(experts.num, ranks // etp))
    if experts.num % parallel.ep != 0:
        rule = f"does not divide num_local_experts={experts.num}"
    elif ranks % (parallel.ep * etp) != 0:
        rule = f"times etp={etp} does not divide the {ranks} ranks of a stage (tp * cp * dp)"
    else:
        return
    yield Violation(
        path="parallel.ep", value=parallel.ep, rule=rule, remedy=f"use {one_of(possible)}"
    )


def _cut_violations(parallel: ParallelConfig, *, architecture: Architecture) -> Iterator[Violation]:
    etp, ffn = expert_tensor_ranks(parallel), architecture.ffn_hidden_size
    possible = _divisors(math.gcd(ffn, parallel.tp * parallel.cp * parallel.dp))
    if ffn % etp != 0:
        yield Violation(
            path="parallel.etp",
            value=etp,
            rule=f"does not divide intermediate_size={ffn}",
            remedy=f"use {one_of(possible)}",
        )
    if parallel.tp > 1 and not parallel.sequence_parallel:
        yield Violation(
            path="parallel.sequence_parallel",
            value="false",
            rule=f"leaves every token on all {parallel.tp} tensor-parallel ranks, each of which "
            "would send it to its experts",
            remedy="set parallel.sequence_parallel=true or parallel.tp=1",
        )


def _sharding_violations(parallel: ParallelConfig) -> Iterator[Violation]:
    """Experts are reduced over other ranks than all else, and ZeRO-3 knows of one set of ranks."""
    if parallel.sharded_weights:
        yield Violation(
            path="parallel.sharded_weights",
            value="true",
            rule="is not there for models with experts",
            remedy="set parallel.distributed_optimizer=true in its place, and deal the experts "
            "with parallel.ep",
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, min(number, 1024) + 1) if number % d == 0]
