# SPDX-License-Identifier: Apache-2.0
"""The suites of evaluation.json as a table in Weights & Biases.

It is an artifact of the run and belongs to no step: a run that goes on logs its next step as if
nothing had been evaluated between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    *("suite", "role", "metric", "items", "clusters", "base", "final"),
    *("difference_points", "low_points", "high_points", "confidence", "limit_points"),
    *("p_value", "p_holm", "gained", "lost", "decontaminated", "verdict", "items_needed"),
)
NAME = "suites"


def suite_rows(checks: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """In the order of COLUMNS."""
    return [[check[column] for column in COLUMNS] for check in checks]


def log_suites(run: Any, *, checks: Sequence[Mapping[str, Any]], step: int) -> None:
    """``run``: of wandb, begun. ``step``: of the checkpoint that was evaluated."""
    import wandb

    artifact = wandb.Artifact(f"evaluation-{run.id}", type="evaluation", metadata={"step": step})
    artifact.add(wandb.Table(columns=list(COLUMNS), data=suite_rows(checks)), NAME)
    run.log_artifact(artifact)
