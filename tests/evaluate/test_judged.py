# SPDX-License-Identifier: Apache-2.0
"""A run's gate as a whole: what evaluation.json says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from megacpt.config.declared import gate_fingerprint
from megacpt.config.sections import (
    EvaluateConfig,
    GateConfig,
    RunConfig,
    UsefulnessConfig,
    UsefulnessMetric,
)
from megacpt.evaluate.judged import FLIPS_SHOWN, judged
from megacpt.evaluate.suite_gate import Role, Suite
from tests.evaluate.statistics.suites import Truth, scores_of

HELDOUT = {
    "web": {"base": {"loss": 3.3, "perplexity": 27.1}, "final": {"loss": 3.31, "perplexity": 27.4}}
}


def config_with(gate: GateConfig) -> RunConfig:
    return RunConfig(evaluate=EvaluateConfig(general="web", gate=gate))


def suite_of(truth: Truth, *, role: Role) -> Suite:
    base, final = scores_of(truth.draw(np.random.default_rng(1)))
    return Suite(role=role, base=base, final=final)


LAW = suite_of(Truth(clusters=4_000, flips=0.1), role=Role.retention)
LIMITS = GateConfig(retention_drop_max_points=2.0, general_perplexity_ratio_max=1.02)


def test_all_of_it_goes_to_json() -> None:
    config = config_with(LIMITS)
    result = judged(config, heldout=HELDOUT, suites={"law": LAW}, declared=gate_fingerprint(config))
    assert json.loads(json.dumps(result)) == result
    assert (result["verdict"], result["declared_late"]) == ("passed", False)
    assert [check["verdict"] for check in result["suites"]] == ["passed"]


def test_flips_are_as_many_of_both_kinds() -> None:
    flipped = judged(config_with(LIMITS), heldout=HELDOUT, suites={"law": LAW}, declared=None)[
        "flipped"
    ]["law"]
    assert len(flipped) == FLIPS_SHOWN
    assert sum(flip["candidate"] > flip["base"] for flip in flipped) == FLIPS_SHOWN // 2


def test_limits_that_were_moved_are_told() -> None:
    config = config_with(LIMITS)
    moved = config_with(replace(LIMITS, retention_drop_max_points=20.0))
    declared = gate_fingerprint(config)
    assert judged(moved, heldout=HELDOUT, suites={"law": LAW}, declared=declared)["declared_late"]
    unknown = judged(moved, heldout=HELDOUT, suites={"law": LAW}, declared=None)
    assert not unknown["declared_late"]


def test_a_limit_without_a_suite_is_not_passed() -> None:
    result = judged(config_with(LIMITS), heldout=HELDOUT, suites={}, declared=None)
    assert result["verdict"] == "not enough items"
    assert result["gate"][-1]["sentence"] == (
        "retention not enough items: a limit is declared, and there is no score of a suite of that "
        "role"
    )


def test_a_declared_suite_that_was_not_measured_is_not_passed() -> None:
    """As after ``megacpt usefulness --suite letters``."""
    asked = UsefulnessConfig(questions="q.jsonl", metric=UsefulnessMetric.contains)
    evaluate = EvaluateConfig(
        gate=GateConfig(usefulness_drop_max_points=2.0),
        usefulness={"advice": asked, "letters": asked},
    )
    suites = {"letters": replace(LAW, role=Role.usefulness)}
    result = judged(RunConfig(evaluate=evaluate), heldout={}, suites=suites, declared=None)
    assert [check["verdict"] for check in result["suites"]] == ["passed"]
    assert result["verdict"] == "not enough items"
    assert result["gate"][-1]["sentence"].endswith(
        "there is no score of advice; run megacpt usefulness, then evaluate"
    )


def test_nothing_declared_is_nothing_passed() -> None:
    result = judged(config_with(GateConfig()), heldout=HELDOUT, suites={"law": LAW}, declared=None)
    assert result["verdict"] == "not declared"
