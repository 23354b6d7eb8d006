# SPDX-License-Identifier: Apache-2.0
"""What the settings of precision exclude, on GPUs and, so that a trial there says something about
them, in the emulation on CPUs too."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, Recipe, RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
from megacpt.plan.precision import SIZE_MULTIPLE, is_fp8, quantises
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import sequence_lengths
from megacpt.plan.rules.experts import expert_tensor_ranks
from megacpt.plan.rules.parallel import mlp_sizes
from megacpt.text import one_of

GATHERED_RECIPES = (Recipe.delayed, Recipe.tensorwise, Recipe.blockwise)
"""Recipes whose weights both versions' distributed optimizers can gather as they are."""


def _precision(facts: Facts) -> Iterator[Violation]:
    config, precision = facts.config, facts.config.precision
    if precision.fp8_format is not None and not is_fp8(precision.recipe):
        yield Violation(
            path="precision.fp8_format",
            value=precision.fp8_format.name,
            rule=f"is of the fp8 recipes, but precision.recipe={precision.recipe.name}",
            remedy="set precision.fp8_format=null or an fp8 recipe",
        )
    if quantises(precision) and precision.dtype is not Dtype.bf16:
        yield Violation(
            path="precision.recipe",
            value=precision.recipe.name,
            rule=f"needs bf16 for all that it does not quantise, but precision.dtype="
            f"{precision.dtype.name}",
            remedy="set precision.dtype=bf16 or precision.recipe=none",
        )
    if precision.fp8_param_gather:
        yield from _gather(config)


def _bf16_layers(facts: Facts) -> Iterator[Violation]:
    precision, architecture = facts.config.precision, facts.architecture
    counts = {
        "precision.bf16_first_layers": precision.bf16_first_layers,
        "precision.bf16_last_layers": precision.bf16_last_layers,
    }
    for path, count in counts.items():
        if count > 0:
            yield from _bf16_count(facts, path=path, count=count)
    total = sum(counts.values())
    if architecture is not None and min(counts.values()) > 0 and total >= architecture.num_layers:
        yield Violation(
            path="precision.bf16_last_layers",
            value=precision.bf16_last_layers,
            rule=f"with precision.bf16_first_layers={precision.bf16_first_layers} leaves none of "
            f"the {architecture.num_layers} layers to the recipe",
            remedy="use fewer, or precision.recipe=none",
        )


def _bf16_count(facts: Facts, *, path: str, count: int) -> Iterator[Violation]:
    recipe, architecture = facts.config.precision.recipe, facts.architecture
    if recipe in (Recipe.none, Recipe.delayed):
        why = (
            "has no meaning without a recipe: all layers are in bf16"
            if recipe is Recipe.none
            # Its scales are brought up to date once a pass, on leaving the last quantised layer.
            else "is not possible with precision.recipe=delayed, which spans all layers"
        )
        remedy = f"set {path}=0 or another recipe, such as precision.recipe=tensorwise"
        yield Violation(path=path, value=count, rule=why, remedy=remedy)
    if architecture is None:
        return
    most = architecture.num_layers // max(facts.config.parallel.pp, 1)
    if count > most:
        yield Violation(
            path=path,
            value=count,
            rule=f"is more than the layers of a pipeline stage ({most})",
            remedy=f"use {most} or less",
        )


def _gather(config: RunConfig) -> Iterator[Violation]:
    parallel, recipe = config.parallel, config.precision.recipe
    possible = one_of(gathered.name for gathered in GATHERED_RECIPES)
    for allowed, rule, remedy in (
        (
            recipe in GATHERED_RECIPES,
            f"is possible with {possible}, but precision.recipe={recipe.name}",
            "set precision.fp8_param_gather=false",
        ),
        (
            parallel.distributed_optimizer,
            "needs parallel.distributed_optimizer, which gathers the weights",
            "set parallel.distributed_optimizer=true",
        ),
        (
            not parallel.sharded_weights,
            "is not possible with parallel.sharded_weights, which gathers bf16",
            "set one of the two to false",
        ),
        (
            config.cluster.device is not DeviceKind.cpu,
            "needs a GPU with FP8; the emulation keeps weights in bf16",
            "set precision.fp8_param_gather=false on CPUs",
        ),
    ):
        if not allowed:
            yield Violation(
                path="precision.fp8_param_gather", value="true", rule=rule, remedy=remedy
            )


def _product_sizes(facts: Facts) -> Iterator[Violation]:
    config, parallel = facts.config, facts.config.parallel
    if not quantises(config.precision):
        return
    if min(parallel.tp, parallel.cp, expert_tensor_ranks(parallel)) < 1:
        return
    yield from _tokens(config)
    if facts.architecture is not None:
        yield from _weights(config, architecture=facts.architecture)


def _tokens(config: RunConfig) -> Iterator[Violation]:
    """A rank's tokens are a size of the weight gradient's product."""
    parallel, multiple = config.parallel, SIZE_MULTIPLE[config.precision.recipe]
    cut = parallel.cp * (parallel.tp if parallel.sequence_parallel else 1)
    for path, length in sequence_lengths(config.data).items():
        tokens = length * config.data.micro_batch_size
        if tokens < 1 or tokens % (cut * multiple) == 0:
            continue
        per_rank = f"{tokens}" if cut == 1 else f"{tokens} / {cut}"
        yield Violation(
            path=path,
            value=length,
            rule=f"gives a rank {per_rank} tokens a microbatch, and precision.recipe="
            f"{config.precision.recipe.name} needs a multiple of {multiple}",
            remedy=f"make sequence_length * micro_batch_size a multiple of {cut * multiple}",
        )


def _weights(config: RunConfig, *, architecture: Architecture) -> Iterator[Violation]:
    recipe, multiple = config.precision.recipe, SIZE_MULTIPLE[config.precision.recipe]
    for name, size in product_sizes(architecture, parallel=config.parallel).items():
        if size % multiple != 0:
            yield Violation(
                path="precision.recipe",
                value=recipe.name,
                rule=f"needs sizes that are multiples of {multiple}, but {name} is {size:g}",
                remedy="use another layout or precision.recipe=none"
                if config.parallel.tp > 1
                else "use another recipe, or precision.recipe=none",
            )


def product_sizes(architecture: Architecture, *, parallel: ParallelConfig) -> dict[str, float]:
    """In words -> a size of the layers' products on one rank."""
    tp = parallel.tp
    of_tp = "" if tp == 1 else f" of tp={tp}"
    mlps = {name: (size, tp) for name, size in mlp_sizes(architecture).items()}
    if architecture.experts is not None:
        inner = architecture.ffn_hidden_size
        mlps["the experts' intermediate_size"] = inner, expert_tensor_ranks(parallel)
    return {
        "hidden_size": architecture.hidden_size,
        **_latent_ranks(architecture),
        **{f"{name}{of_tp}": size / tp for name, size in _attention_sizes(architecture).items()},
        **{
            name if cut == 1 else f"{name} of {cut} ranks": size / cut
            for name, (size, cut) in mlps.items()
        },
    }


def _attention_sizes(architecture: Architecture) -> dict[str, int]:
    """What tensor parallelism cuts, in words."""
    net = architecture.delta_net
    found = _head_sizes(architecture)
    if net is not None:
        keys, values = net.key_heads * net.key_dim, net.value_heads * net.value_dim
        found["what a gated delta net reads"] = 2 * (keys + values + net.value_heads)
        found["a gated delta net's values"] = values
    return found


def _head_sizes(architecture: Architecture) -> dict[str, int]:
    heads, head_dim, latent = architecture.num_heads, architecture.head_dim, architecture.latent
    if latent is None:
        queries, keys = heads * head_dim, architecture.num_kv_heads * head_dim
        return {
            "the queries' size": queries,
            "the size of queries, keys and values": queries + 2 * keys,
        }
    return {
        "the queries' size": heads * (latent.plain_dim + head_dim),
        "the size of keys and values": heads * (latent.plain_dim + latent.value_dim),
        "the values' size": heads * latent.value_dim,
    }


def _latent_ranks(architecture: Architecture) -> dict[str, int]:
    """What queries, keys and values are made from, whole on every rank."""
    latent = architecture.latent
    if latent is None:
        return {}
    ranks = {"q_lora_rank": latent.query_rank, "kv_lora_rank": latent.kv_rank}
    return {name: rank for name, rank in ranks.items() if rank is not None}


RULES: tuple[Rule, ...] = (_precision, _bf16_layers, _product_sizes)
