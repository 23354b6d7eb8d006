# SPDX-License-Identifier: Apache-2.0
"""The valid layout nearest to one that breaks rules: the cheapest set of changes that fixes all.

A best-first search (A*). The first broken rule says which settings can fix it, and each of their
possible values is a step. A change costs the binary logarithm of its ratio; settings that change
what is trained cost more than those that change where, and a change of the number of ranks costs
beside that of the setting.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from megacpt.config.sections import Recompute, RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
from megacpt.plan.rules.data import sequence_lengths
from megacpt.plan.rules.parallel import (
    batch_sizes,
    batch_unit,
    common_tensor_size,
    divisors,
    neighbours,
)

Settings = Mapping[str, Any]
"""Setting -> value, as in ``parallel.tp=2``."""


_MAX_TRIED = 4000
_PIPELINE = (
    *("parallel.pp", "parallel.vpp"),
    *("parallel.first_stage_layers", "parallel.last_stage_layers"),
)
_OPTIMISER = (
    *("parallel.distributed_optimizer", "parallel.overlap_grad_reduce"),
    *("parallel.overlap_param_gather", "parallel.sharded_weights", "optim.offload"),
)
_BATCH = ("parallel.dp", "parallel.vpp", "data.micro_batch_size")
_CUTS = ("parallel.tp", "parallel.cp", "parallel.sequence_parallel", "data.document_mask")
_EXPERTS = ("parallel.ep", "parallel.etp")
_FIXED_BY: dict[str, tuple[str, ...]] = {
    "parallel.tp": (),
    "parallel.cp": _CUTS,
    "parallel.pp": (*_PIPELINE, "parallel.sharded_weights"),
    "parallel.vpp": _PIPELINE,
    "parallel.dp": ("parallel.tp", "parallel.cp", "parallel.pp"),
    "parallel.ep": (*_EXPERTS, "parallel.dp", "parallel.sharded_weights"),
    "parallel.etp": (*_EXPERTS, "parallel.tp"),
    "parallel.first_stage_layers": _PIPELINE,
    "parallel.last_stage_layers": _PIPELINE,
    "parallel.sequence_parallel": ("parallel.tp",),
    "parallel.recompute_layers": ("parallel.recompute", *_PIPELINE),
    "data.document_mask": ("parallel.cp",),
    "data.sequence_length": _CUTS,
    "data.global_batch_size": _BATCH,
    "data.micro_batch_size": _BATCH,
    **dict.fromkeys(_OPTIMISER, (*_OPTIMISER, *_EXPERTS)),
}
"""Path of a violation -> other settings that can fix it."""

_WEIGHTS = {"data.document_mask": 6.0, "data.micro_batch_size": 0.5, "parallel.dp": 0.5}
_BATCH_WEIGHT = 4.0
_RANKS_WEIGHT = 2.0
_EXPECTED = 1.0
"""Estimated cost of fixing one more broken setting."""


def nearest_layout(
    config: RunConfig,
    *,
    architecture: Architecture,
    num_ranks: int | None,
    faults: Callable[[RunConfig], Sequence[Violation]],
    accepts: Callable[[RunConfig], bool],
) -> dict[str, Any] | None:
    """The settings to change; None if nothing in reach fixes all.

    ``faults``: what the layout breaks; ``accepts``: whether all else is as sound as it was.
    """
    serial = itertools.count()
    waiting: list[tuple[float, int, dict[str, Any]]] = [(0.0, next(serial), {})]
    seen: set[tuple[tuple[str, str], ...]] = {()}
    while waiting and len(seen) < _MAX_TRIED:
        _, _, settings = heapq.heappop(waiting)
        candidate = with_settings(config, settings=settings)
        found = faults(candidate)
        if not found and accepts(candidate):
            return settings
        for step in _steps(candidate, faults=found, architecture=architecture, num_ranks=num_ranks):
            changed = _changes(config, settings={**settings, **step})
            key = tuple(sorted((path, str(value)) for path, value in changed.items()))
            if key not in seen:
                seen.add(key)
                left = {v.path for v in faults(with_settings(config, settings=changed))}
                cost = _cost(config, changed=changed, keeps_ranks=num_ranks is None)
                heapq.heappush(waiting, (cost + _EXPECTED * len(left), next(serial), changed))
    return None


def as_text(settings: Settings) -> str:
    """Settings as on a command line: ``parallel.tp=2 parallel.recompute_layers=null``."""
    return " ".join(f"{path}={_shown(value)}" for path, value in sorted(settings.items()))


def with_settings(config: RunConfig, *, settings: Settings) -> RunConfig:
    """A copy with these values."""
    for path, value in settings.items():
        config = _replaced(config, path=path.split("."), value=value)
    return config


def _replaced(node: Any, *, path: Sequence[str], value: Any) -> Any:
    """``node`` is a section or a dictionary of sections."""
    name, *rest = path
    if isinstance(node, dict):
        return {**node, name: _replaced(node[name], path=rest, value=value) if rest else value}
    return replace(
        node, **{name: _replaced(getattr(node, name), path=rest, value=value) if rest else value}
    )


def _value(config: RunConfig, *, path: str) -> Any:
    node: Any = config
    for name in path.split("."):
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    return node


def _general(path: str) -> str:
    """A stage's sizes follow the rules of the start's."""
    name = path.rpartition(".")[2]
    return f"data.{name}" if path.startswith("data.stages.") else path


def _changes(config: RunConfig, *, settings: Settings) -> dict[str, Any]:
    return {path: value for path, value in settings.items() if value != _value(config, path=path)}


def _steps(
    config: RunConfig,
    *,
    faults: Sequence[Violation],
    architecture: Architecture,
    num_ranks: int | None,
) -> Iterator[Settings]:
    """Possible fixes of the first fault; whether they work is not known yet."""
    wanted = num_ranks or config.parallel.num_ranks
    for path in (p for fault in faults[:1] for p in _fixing(fault.path)):
        for value in _values(config, path=path, architecture=architecture):
            yield {path: value}
            yield from _same_ranks(config, step={path: value}, num_ranks=wanted)


def _fixing(path: str) -> Iterable[str]:
    return dict.fromkeys((path, *_FIXED_BY.get(_general(path), ())))


def _same_ranks(config: RunConfig, *, step: Settings, num_ranks: int) -> Iterator[Settings]:
    """The step, and dp changed with it so that there are ``num_ranks`` again."""
    parallel = with_settings(config, settings=step).parallel
    replica = parallel.tp * parallel.cp * parallel.pp
    if "parallel.dp" not in step and replica >= 1 and num_ranks % replica == 0 < num_ranks:
        yield {**step, "parallel.dp": num_ranks // replica}


def _values(config: RunConfig, *, path: str, architecture: Architecture) -> Iterable[Any]:
    """What a setting may become; rules decide whether it may here."""
    now, data, parallel = _value(config, path=path), config.data, config.parallel
    if isinstance(now, bool):
        return [not now]
    if path in sequence_lengths(data):
        return []
    if path == "parallel.recompute":
        return list(Recompute)
    if path in batch_sizes(data):
        return neighbours(now, unit=max(batch_unit(config), 1))
    layers = architecture.num_layers
    limits = {
        "parallel.tp": common_tensor_size(architecture),
        "parallel.cp": max(math.gcd(*sequence_lengths(data).values()) // 2, 1),
        "parallel.dp": math.gcd(*batch_sizes(data).values()) // max(data.micro_batch_size, 1),
        "parallel.ep": architecture.experts.num if architecture.experts else 1,
        "parallel.vpp": layers,
        "data.micro_batch_size": math.gcd(*batch_sizes(data).values()) // max(parallel.dp, 1),
    }
    if path in limits:
        return divisors(max(limits[path], 1))
    if path == "parallel.etp":
        return [None, *divisors(architecture.ffn_hidden_size, limit=parallel.num_ranks)]
    return _layer_counts(path, now=now, most=layers)


def _layer_counts(path: str, *, now: int | None, most: int) -> Iterable[int | None]:
    """pp, or the layers of a stage: around what is asked for, and None where that is a value."""
    near = {n for n in range((now or 1) - 4, (now or 1) + 5) if 1 <= n <= most}
    counts = sorted(near | set(divisors(most)))
    return counts if path == "parallel.pp" else [None, *counts]


def _cost(config: RunConfig, *, changed: Settings, keeps_ranks: bool) -> float:
    """``keeps_ranks``: their number is the user's choice, so that a change of it costs."""
    cost = sum(
        _change_cost(path, before=_value(config, path=path), after=value)
        for path, value in changed.items()
    )
    if keeps_ranks:
        after = with_settings(config, settings=changed).parallel.num_ranks
        cost += _RANKS_WEIGHT * _distance(config.parallel.num_ranks, after=after)
    return cost


def _change_cost(path: str, *, before: Any, after: Any) -> float:
    general = _general(path)
    weight = _BATCH_WEIGHT if general == "data.global_batch_size" else _WEIGHTS.get(general, 1.0)
    is_count = isinstance(before, int) and isinstance(after, int)
    if isinstance(before, bool) or not is_count:
        return weight
    return weight * (0.25 + _distance(before, after=after))


def _distance(before: int, *, after: int) -> float:
    return abs(math.log2(max(after, 1) / max(before, 1)))


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.name)
    return "null" if value is None else str(value).lower()
