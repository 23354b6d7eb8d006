# SPDX-License-Identifier: Apache-2.0
"""What the settings of kernels and of the ranks' environment exclude."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megacpt.config.sections import DeviceKind, Dtype, Recipe, RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import sequence_lengths

OVERLAP_RECIPES = (Recipe.none, Recipe.delayed, Recipe.tensorwise)
"""Recipes whose operands Transformer Engine's communication buffers carry on Hopper."""
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LAUNCHERS = re.compile("(LOCAL_|GROUP_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|SLURM_.*|MEGACPT_.*")
_SECRET = re.compile("(.*_)?(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_.*)?", re.IGNORECASE)


def _overlap(facts: Facts) -> Iterator[Violation]:
    config = facts.config
    if not config.kernels.tp_comm_overlap:
        return
    parallel, precision = config.parallel, config.precision
    lengths = set(sequence_lengths(config.data).values())
    recipes = ", ".join(recipe.name for recipe in OVERLAP_RECIPES)
    for allowed, rule, remedy in (
        (
            parallel.tp > 1 and parallel.sequence_parallel,
            f"needs parallel.sequence_parallel and parallel.tp above 1, but tp={parallel.tp}",
            "set parallel.sequence_parallel=true and parallel.tp=2 or more",
        ),
        (
            config.cluster.device is not DeviceKind.cpu,
            "needs GPUs, but cluster.device=cpu",
            "use kernels.tp_comm_overlap=false",
        ),
        (
            precision.dtype is Dtype.bf16,
            f"has buffers of bf16, but precision.dtype={precision.dtype.name}",
            "use precision.dtype=bf16",
        ),
        (
            precision.recipe in OVERLAP_RECIPES,
            f"cannot carry precision.recipe={precision.recipe.name}",
            f"use precision.recipe={recipes}",
        ),
        (
            len(lengths) == 1,
            f"has buffers of one size, but stages have sequence lengths {sorted(lengths)}",
            "use one length or kernels.tp_comm_overlap=false",
        ),
        (
            not config.kernels.deterministic,
            "adds in an order of its own, but kernels.deterministic=true",
            "set one of them to false",
        ),
    ):
        if not allowed:
            yield Violation(path="kernels.tp_comm_overlap", value="true", rule=rule, remedy=remedy)


def _variables(facts: Facts) -> Iterator[Violation]:
    for name in facts.config.kernels.environment:
        for forbidden, rule, remedy in (
            (not _NAME.fullmatch(name), "is no name of an environment variable", "rename it"),
            (
                _LAUNCHERS.fullmatch(name),
                "belongs to the launcher of the ranks",
                "leave it out",
            ),
            (
                _SECRET.fullmatch(name),
                "looks like a secret, which run.yaml would show",
                "set it in the environment instead",
            ),
        ):
            if forbidden:
                yield Violation(
                    path=f"kernels.environment.{name}", value="{...}", rule=rule, remedy=remedy
                )


def _overlap_of_latent(facts: Facts) -> Iterator[Violation]:
    model = facts.architecture
    if model is not None and model.latent is not None and facts.config.kernels.tp_comm_overlap:
        yield Violation(
            path="kernels.tp_comm_overlap",
            value="true",
            rule=f"has buffers of hidden states, but {model.family}'s latent attention gathers "
            "what it makes of them",
            remedy="use kernels.tp_comm_overlap=false",
        )


def _overlap_of_adapter(facts: Facts) -> Iterator[Violation]:
    """Where nothing is to be multiplied, Transformer Engine leaves the input's gradient as it is on
    each rank."""
    if facts.config.adapter is not None and facts.config.kernels.tp_comm_overlap:
        yield Violation(
            path="kernels.tp_comm_overlap",
            value="true",
            rule="sums gradients of inputs during the products of weights' gradients, but beside "
            "an adapter weights have none",
            remedy="use kernels.tp_comm_overlap=false, or adapter=none",
        )


def advice_for_gpus(config: RunConfig, *, model: Architecture) -> Iterator[str]:
    """What has no kernel on GPUs."""
    if config.cluster.device is not DeviceKind.gpu:
        return
    for what in _without_kernel(model):
        yield (
            f"cluster.device=gpu: a {model.family} model has {what}, for which Transformer Engine "
            "has no kernel; torch's operations compute it, which takes longer."
        )


def _without_kernel(model: Architecture) -> Iterator[str]:
    if model.scales.attention_cap is not None:
        yield f"a bound of attention scores (attn_logit_softcapping={model.scales.attention_cap})"
    if model.delta_net is not None:
        yield "gated delta nets"


RULES: tuple[Rule, ...] = (_overlap, _overlap_of_latent, _overlap_of_adapter, _variables)
