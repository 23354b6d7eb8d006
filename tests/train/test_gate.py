# SPDX-License-Identifier: Apache-2.0
"""The gate on trained models: a planted regression is caught, a sane run passes, and a tiny suite
has not enough items."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.parity import write_run_inputs
from tests.train.sentences import write_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mcore,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval"),
]
STEPS = 3
LIMIT_POINTS = 50.0
"""Half a nat a word."""


def settings(work: Path, *, lr_peak: float) -> dict[str, Any]:
    suite = {"task": "sentences", "include_path": str(work / "tasks"), "role": "retention"}
    return {
        "schedule": {"steps": STEPS, "warmup_steps": 0, "shape": "constant"},
        "optim": {"lr_peak": lr_peak},
        "checkpoint": {"every_steps": STEPS},
        "faults": {"spike": "ignore"},
        "evaluate": {
            "heldout": {"late": {"prefix": str(work / "late")}},
            "benchmarks": {"sentences": suite, "few": {**suite, "limit": 2}},
            "gate": {"retention_drop_max_points": LIMIT_POINTS},
        },
    }


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    work = tmp_path_factory.mktemp("gate")
    write_run_inputs(work, tied=False)
    write_task(work / "tasks")
    cases = {name: settings(work, lr_peak=lr) for name, lr in (("sane", 1e-4), ("wild", 0.1))}
    run_on_ranks("tests.train.benchmark_runs:train_and_evaluate", work, world=1, cases=cases)
    return {name: json.loads((work / name / "evaluation.json").read_text()) for name in cases}


def verdicts(evaluation: dict[str, Any]) -> dict[str, str]:
    return {check["suite"]: check["verdict"] for check in evaluation["suites"]}


def test_a_sane_run_passes_and_a_tiny_suite_has_not_enough_items(
    evaluations: dict[str, dict[str, Any]],
) -> None:
    found = evaluations["sane"]
    assert verdicts(found) == {"sentences": "passed", "few": "not enough items"}
    assert found["verdict"] == "not enough items"
    assert found["declared_late"] is False
    few = next(check for check in found["suites"] if check["suite"] == "few")
    assert few["items_needed"] > 2


def test_a_planted_regression_fails(evaluations: dict[str, dict[str, Any]]) -> None:
    found = evaluations["wild"]
    assert verdicts(found)["sentences"] == "failed"
    assert found["verdict"] == "failed"
    assert all(flip["candidate"] < flip["base"] for flip in found["flipped"]["sentences"])
