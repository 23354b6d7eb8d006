# SPDX-License-Identifier: Apache-2.0
"""What a mixture of experts asks of the layout, and what only a model with experts can be asked."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import ParallelConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture, Experts
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.parallel import divisors
from megacpt.text import one_of


def expert_tensor_ranks(parallel: ParallelConfig) -> int:
    """Ranks that one expert is cut over."""
    return parallel.tp if parallel.etp is None else parallel.etp


def _experts(facts: Facts) -> Iterator[Violation]:
    parallel, architecture = facts.config.parallel, facts.architecture
    etp = expert_tensor_ranks(parallel)
    if architecture is None or min(etp, parallel.tp, parallel.cp, parallel.dp, parallel.ep) < 1:
        return
    if architecture.experts is None:
        yield from _dense(facts, family=architecture.family)
        return
    yield from _deal(parallel, experts=architecture.experts)
    yield from _cut(parallel, architecture=architecture)
    if parallel.sharded_weights:
        # Experts are reduced over other ranks than all else, and ZeRO-3 knows of one set of ranks.
        yield Violation(
            path="parallel.sharded_weights",
            value="true",
            rule="is not there for models with experts",
            remedy="set parallel.distributed_optimizer=true in its place, and deal the experts "
            "with parallel.ep",
        )


def _dense(facts: Facts, *, family: str) -> Iterator[Violation]:
    parallel, coefficient = facts.config.parallel, facts.config.model.router_aux_loss_coef
    for path, value, neutral in (
        ("parallel.ep", parallel.ep, 1),
        ("parallel.etp", parallel.etp, None),
        ("model.router_aux_loss_coef", coefficient, None),
    ):
        if value != neutral:
            yield Violation(
                path=path,
                value=value,
                rule=f"needs a model with experts, but this {family} has none",
                remedy=f"use {path}={'null' if neutral is None else neutral}",
            )


def _deal(parallel: ParallelConfig, *, experts: Experts) -> Iterator[Violation]:
    """Each expert-parallel rank holds equally many experts, and all ranks of a stage hold some."""
    etp, ranks = expert_tensor_ranks(parallel), parallel.tp * parallel.cp * parallel.dp
    if ranks % etp != 0:
        yield Violation(
            path="parallel.etp",
            value=etp,
            rule=f"does not divide the {ranks} ranks of a pipeline stage (tp * cp * dp)",
            remedy=f"use {one_of(divisors(ranks))}",
        )
        return
    possible = divisors(math.gcd(experts.num, ranks // etp))
    if experts.num % parallel.ep != 0:
        rule = f"does not divide num_local_experts={experts.num}"
    elif ranks % (parallel.ep * etp) != 0:
        rule = f"times etp={etp} does not divide the {ranks} ranks of a stage (tp * cp * dp)"
    else:
        return
    yield Violation(
        path="parallel.ep", value=parallel.ep, rule=rule, remedy=f"use {one_of(possible)}"
    )


def _cut(parallel: ParallelConfig, *, architecture: Architecture) -> Iterator[Violation]:
    etp, ffn = expert_tensor_ranks(parallel), architecture.ffn_hidden_size
    possible = divisors(math.gcd(ffn, parallel.tp * parallel.cp * parallel.dp))
    if ffn % etp != 0:
        yield Violation(
            path="parallel.etp",
            value=etp,
            rule=f"does not divide intermediate_size={ffn}",
            remedy=f"use {one_of(possible)}",
        )
    if architecture.mlp_bias and etp > 1:
        yield Violation(
            path="parallel.etp",
            value=etp,
            rule=f"cuts experts, but those of {architecture.family} have biases, which are added "
            "whole",
            remedy="set parallel.etp=1",
        )
    if parallel.tp > 1 and not parallel.sequence_parallel:
        yield Violation(
            path="parallel.sequence_parallel",
            value="false",
            rule=f"leaves every token on all {parallel.tp} tensor-parallel ranks, each of which "
            "would send it to its experts",
            remedy="set parallel.sequence_parallel=true or parallel.tp=1",
        )


RULES: tuple[Rule, ...] = (_experts,)
