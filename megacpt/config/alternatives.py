# SPDX-License-Identifier: Apache-2.0
"""Settings that say the same thing in different units: exactly one of each set is in force.

The strongest place that sets one decides, and the others give way: a run of ``experiment=tiny
schedule.epochs=2`` is two epochs long, whatever number of steps the experiment has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megacpt.config.schema import flatten, spelled
from megacpt.errors import ConfigError, Violation
from megacpt.text import listed

ALTERNATIVES: tuple[Mapping[str, Any], ...] = (
    {"schedule.steps": 0, "schedule.epochs": None, "schedule.tokens": None},
    {"schedule.warmup_steps": 0, "schedule.warmup_fraction": None},
)
"""Setting -> the value with which it gives way."""


def given_way(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings that give way, with that value; ``layers`` are trees, the strongest first.

    ConfigError where one layer sets two.
    """
    found: dict[str, Any] = {}
    problems: list[Violation] = []
    leaves = [flatten(layer) for layer in layers]
    for alternatives in ALTERNATIVES:
        chosen = next(filter(None, (list(_set(one, of=alternatives)) for one in leaves)), [])
        if len(chosen) > 1:
            problems.append(_twice(dict(chosen)))
        elif chosen:
            found |= {k: value for k, value in alternatives.items() if k != chosen[0][0]}
    if problems:
        raise ConfigError(problems)
    return found


def _set(leaves: Mapping[str, Any], *, of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those that a layer sets; one that gives way counts if it sets no other."""
    present = {key: leaves[key] for key in of if leaves.get(key) is not None}
    others = {key: value for key, value in present.items() if str(value) != "0"}
    yield from others.items() or list(present.items())[:1]


def _twice(chosen: Mapping[str, Any]) -> Violation:
    first, *others = chosen
    return Violation(
        path=first,
        value=spelled(chosen[first]),
        rule=f"is set beside {listed(f'{key}={chosen[key]}' for key in others)}",
        remedy="set one of them",
    )
