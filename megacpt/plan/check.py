# SPDX-License-Identifier: Apache-2.0
"""Every broken rule of a configuration at once, with the nearest layout that breaks none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from megacpt.config.sections import AdapterConfig, RunConfig
from megacpt.errors import ConfigError, Violation
from megacpt.families.architecture import Architecture
from megacpt.families.targets import with_adapter
from megacpt.plan.nearest_layout import as_text, nearest_layout
from megacpt.plan.rules import (
    Facts,
    Rule,
    adapter,
    checkpoint,
    cluster,
    data,
    delta_net,
    evaluate,
    experts,
    faults,
    kernels,
    layout_limits,
    limits,
    model,
    objective,
    optim,
    parallel,
    precision,
    segments,
    usefulness,
)
from megacpt.tokenizer import Tokenizer

RULES: tuple[Rule, ...] = (
    limits,
    *model.RULES,
    *adapter.RULES,
    *parallel.RULES,
    *data.RULES,
    *objective.RULES,
    *segments.RULES,
    *optim.RULES,
    *evaluate.RULES,
    *usefulness.RULES,
    *faults.RULES,
    *kernels.RULES,
    *precision.RULES,
    *experts.RULES,
    *delta_net.RULES,
    *checkpoint.RULES,
    *cluster.RULES,
)
LAYOUT_RULES: tuple[Rule, ...] = (
    layout_limits,
    *parallel.RULES,
    *experts.RULES,
    *delta_net.RULES,
    *optim.RULES,
)
"""Those that can be kept by another layout, another batch or both."""
LAYOUT_SETTINGS = ("parallel.", "data.", "optim.offload")


def violations(
    config: RunConfig,
    *,
    architecture: Architecture | None = None,
    tokenizer: Tokenizer | None = None,
    shard_tokens: Mapping[str, int] | None = None,
    num_ranks: int | None = None,
    launched: bool = False,
) -> list[Violation]:
    """Every broken rule; the remedies of the layout's name the nearest layout that keeps all.

    ``architecture``: the base model's.
    """
    adapted, unmatched = _adapted(architecture, settings=config.adapter)
    facts = Facts(
        config=config,
        architecture=adapted,
        tokenizer=tokenizer,
        shard_tokens=shard_tokens,
        num_ranks=num_ranks,
        launched=launched,
    )
    of_layout = _layout_faults(facts)
    settings = _nearest(config, facts=facts) if of_layout else None
    hint = f"; nearest valid layout: {as_text(settings)}" if settings else ""
    return [
        *unmatched,
        *(
            replace(v, remedy=v.remedy + hint) if v in of_layout else v
            for v in _broken(RULES, facts=facts)
        ),
    ]


def _adapted(
    base: Architecture | None, *, settings: AdapterConfig | None
) -> tuple[Architecture | None, tuple[Violation, ...]]:
    """With the adapter, unless that names what the model has not."""
    if base is None:
        return None, ()
    try:
        return with_adapter(base, settings=settings), ()
    except ConfigError as error:
        return base, error.violations


def nearest_valid_layout(
    config: RunConfig, *, architecture: Architecture, num_ranks: int | None = None
) -> dict[str, Any] | None:
    """Setting -> value: the smallest change after which no rule of the layout is broken.

    Empty if none is broken now, None if no change in reach keeps all.
    """
    facts = Facts(config=config, architecture=architecture, num_ranks=num_ranks)
    return _nearest(config, facts=facts)


def _broken(rules: Sequence[Rule], *, facts: Facts) -> list[Violation]:
    return [violation for rule in rules for violation in rule(facts)]


def _layout_faults(facts: Facts) -> list[Violation]:
    found = _broken(LAYOUT_RULES, facts=facts)
    return [violation for violation in found if violation.path.startswith(LAYOUT_SETTINGS)]


def _nearest(start: RunConfig, *, facts: Facts) -> dict[str, Any] | None:
    if facts.architecture is None:
        return None
    known = {(v.path, v.rule) for v in _broken(RULES, facts=facts)}

    def accepts(config: RunConfig) -> bool:
        found = _broken(RULES, facts=replace(facts, config=config))
        return all((v.path, v.rule) in known for v in found)

    return nearest_layout(
        start,
        architecture=facts.architecture,
        num_ranks=facts.num_ranks,
        faults=lambda config: _layout_faults(replace(facts, config=config)),
        accepts=accepts,
    )
