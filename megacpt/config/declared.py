# SPDX-License-Identifier: Apache-2.0
"""What a run declares before training: the limits of its gate, and a fingerprint of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import xxhash

from megacpt.config.schema import flatten, to_tree
from megacpt.config.sections import GateConfig, RunConfig

DECLARED_LATE = "declared after training began: run.yaml has other limits than at step 0"
_LIMITS = (
    "domain_perplexity_ratio_max",
    "general_perplexity_ratio_max",
    "forgetting_max_nats",
    "retention_drop_max_points",
    "gain_min_points",
    "usefulness_drop_max_points",
)


def declares_limit(gate: GateConfig) -> bool:
    """Whether anything can be passed or failed."""
    settings = asdict(gate)
    return any(settings[name] is not None for name in _LIMITS)


def gate_fingerprint(config: RunConfig) -> str:
    """Of the limits and of all they judge; a setting that is as it always was changes nothing, so
    that a later megacpt with more settings finds the same."""
    default = _judged(RunConfig())
    changed = {
        key: value
        for key, value in _judged(config).items()
        if key not in default or default[key] != value
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(changed, sort_keys=True).encode())


def roles(config: RunConfig) -> dict[str, str]:
    """Benchmark -> what it is measured for."""
    return {name: suite.role.value for name, suite in config.evaluate.benchmarks.items()}


def declared_suites(config: RunConfig) -> dict[str, str]:
    """The same of benchmarks and of questions."""
    return roles(config) | dict.fromkeys(config.evaluate.usefulness, "usefulness")


def _judged(config: RunConfig) -> dict[str, Any]:
    """Limits, and the names of what they are limits of, where there are any."""
    evaluate = to_tree(config)["evaluate"]
    suites = declared_suites(config) if declares_limit(config.evaluate.gate) else {}
    judged = {name: role for name, role in suites.items() if role != "none"}
    named = {name: evaluate[name] for name in ("gate", "domain", "general")}
    return flatten({**named, "benchmarks": judged})
