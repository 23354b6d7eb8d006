# SPDX-License-Identifier: Apache-2.0
"""Which linear layers of a model an adapter's settings name, by PEFT's rules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from megacpt.config.sections import AdapterConfig, ModelConfig
from megacpt.errors import ConfigError, Violation
from megacpt.families import read_architecture
from megacpt.families.adapter import linear_modules
from megacpt.families.architecture import Adapter, Architecture
from megacpt.text import listed

ALL = "all-linear"
_OF_REGEX = frozenset("*+?()[]|\\^$")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def architecture_of_run(model: ModelConfig, *, adapter: AdapterConfig | None) -> Architecture:
    """What a run trains: its base model's, with the adapter that it sets; ``model.path`` must name
    a folder."""
    base = read_architecture(Path(str(model.path)), rope=model.rope)
    return with_adapter(base, settings=adapter)


def with_adapter(architecture: Architecture, *, settings: AdapterConfig | None) -> Architecture:
    """``ConfigError`` where targets or layers are not among the model's."""
    if settings is None:
        return architecture
    layers = _layers(settings, num_layers=architecture.num_layers)
    modules = _matched(settings.targets, architecture=architecture)
    return replace(
        architecture,
        adapter=Adapter(
            method=settings.method.name,
            rank=settings.rank,
            alpha=settings.alpha,
            rank_stabilised=settings.rank_stabilised,
            dropout=settings.dropout,
            modules=modules,
            layers=layers,
            embedding=settings.train_embedding,
            head=settings.train_head and not architecture.tied_embeddings,
            new_tokens_from=settings.new_tokens_from,
        ),
    )


def _matched(targets: str, *, architecture: Architecture) -> tuple[str, ...]:
    modules = linear_modules(architecture)
    if targets == ALL:
        return tuple(modules)
    if _OF_REGEX.intersection(targets):
        found = tuple(_of_expression(targets, modules=modules, architecture=architecture))
        unknown = [] if found else [targets]
    else:
        endings = [ending.strip() for ending in targets.split(",")]
        unknown = [e for e in endings if not any(_ends(name, ending=e) for name in modules)]
        found = tuple(name for name in modules if any(_ends(name, ending=e) for e in endings))
    if unknown:
        last = sorted({name.rpartition(".")[2] for name in modules})
        close = difflib.get_close_matches(unknown[0], last, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise _refusal(
            "adapter.targets",
            value=unknown[0],
            rule=f"matches no linear layer of this {architecture.family} model",
            remedy=f"{hint}it has {listed(last)}; {ALL} takes all of them",
        )
    return found


def _ends(name: str, *, ending: str) -> bool:
    return bool(ending) and f".{name}".endswith(f".{ending}")


def _of_expression(
    expression: str, *, modules: dict[str, tuple[int, ...]], architecture: Architecture
) -> Iterator[str]:
    """Modules whose whole names match, in all of their layers."""
    try:
        matches = re.compile(expression).fullmatch
    except re.error as error:
        raise _refusal(
            "adapter.targets",
            value=expression,
            rule=f"is no regular expression ({error})",
            remedy="use names of modules separated by commas, such as q_proj,v_proj",
        ) from error
    experts = range(architecture.experts.num if architecture.experts else 1)
    for name, layers in modules.items():
        numbers = product(layers, experts if "{expert}" in name else (None,))
        matched = [bool(matches(name.format(layer=n, expert=e))) for n, e in numbers]
        if any(matched) and not all(matched):
            raise _refusal(
                "adapter.targets",
                value=expression,
                rule=f"matches {name} with some numbers and not with others",
                remedy=r"use \d+ for the numbers, and adapter.layers for some layers alone",
            )
        if any(matched):
            yield name


def _layers(settings: AdapterConfig, *, num_layers: int) -> tuple[int, ...]:
    if settings.layers is None:
        return tuple(range(num_layers))
    found: set[int] = set()
    for part in settings.layers.split(","):
        numbers = _RANGE.fullmatch(part.strip())
        first, last = (
            (int(n) for n in (numbers[1], numbers[2] or numbers[1])) if numbers else (1, 0)
        )
        if not first <= last < num_layers:
            raise _refusal(
                "adapter.layers",
                value=settings.layers,
                rule=f"names no layers from 0 to {num_layers - 1}: {part.strip() or 'nothing'}",
                remedy="use numbers and ranges separated by commas, such as 0-3,7",
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def _refusal(path: str, *, value: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError([Violation(path=path, value=value, rule=rule, remedy=remedy)])
