# SPDX-License-Identifier: Apache-2.0
"""Verdicts on suites: right as often as stated, in simulation, and said in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from megacpt.config.sections import GateConfig, RunConfig
from megacpt.evaluate.gate import Verdict, overall
from megacpt.evaluate.statistics.difference import difference
from megacpt.evaluate.statistics.holm import holm
from megacpt.evaluate.suite_gate import Role, Suite, SuiteCheck, judge, limit_of, sure_drops
from tests.evaluate.statistics.suites import Truth, scores, scores_of

GATE = GateConfig(
    retention_drop_max_points=2.0, gain_min_points=1.0, usefulness_drop_max_points=5.0
)
TAIL = 0.025


def suite_of(truth: Truth, *, role: Role = Role.retention, seed: int = 1) -> Suite:
    base, final = scores_of(truth.draw(np.random.default_rng(seed)))
    return Suite(role=role, base=base, final=final)


def judged(truth: Truth, *, role: Role = Role.retention, gate: GateConfig = GATE) -> SuiteCheck:
    (check,) = judge({"law": suite_of(truth, role=role)}, gate=gate, seed=1)
    return check


def test_an_unchanged_model_passes_on_many_items() -> None:
    check = judged(Truth(clusters=4_000, flips=0.1))
    assert check.verdict is Verdict.passed
    assert check.low_points > -2 > -100
    assert check.items_needed is None
    assert check.sentence.startswith("law retention passed: ")
    assert check.sentence.endswith("on 4,000 items, the declared limit is -2")


def test_a_large_drop_fails() -> None:
    check = judged(Truth(clusters=2_000, flips=0.12, difference=-0.08))
    assert check.verdict is Verdict.failed
    assert check.high_points < -2
    assert check.lost > check.gained
    assert check.p_value < 1e-6


def test_a_tiny_suite_has_not_enough_items_even_if_nothing_flipped() -> None:
    check = judged(Truth(clusters=10, flips=0))
    assert check.verdict is Verdict.not_enough_items
    assert check.items_needed == pytest.approx(1_962, abs=2)
    assert check.sentence.endswith("items would decide it with 80% chance")


def test_items_of_one_cluster_are_told_to_be_too_few_clusters() -> None:
    check = judged(Truth(clusters=1, size=300, flips=0.1))
    assert (check.verdict, check.items_needed) == (Verdict.not_enough_items, None)
    assert check.sentence.endswith("one cluster, which says nothing of others: add items of more")


def test_a_gain_must_surely_exceed_its_minimum() -> None:
    assert judged(Truth(clusters=2_000, flips=0.1, difference=0.05), role=Role.gain).verdict == (
        "passed"
    )
    assert judged(Truth(clusters=2_000, flips=0.1, difference=-0.02), role=Role.gain).verdict == (
        "failed"
    )
    between = judged(Truth(clusters=500, flips=0.1, difference=0.02), role=Role.gain)
    assert between.verdict is Verdict.not_enough_items
    assert between.items_needed is not None
    assert between.items_needed > 500


def test_the_page_shows_what_is_said() -> None:
    """Of 200 items the base has 83; the candidate has 17 of them no more, and 32 others."""
    base_N = (np.arange(200) < 83).astype(float)
    final_N = ((np.arange(200) >= 17) & (np.arange(200) < 115)).astype(float)
    law = Suite(role=Role.gain, base=scores(base_N), final=scores(final_N))
    (check,) = judge({"law": law}, gate=GATE, seed=RunConfig().seed)
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    assert f"{check.base:>10.4f}{check.final:>10.4f}   +0.0750\n" in page
    assert f"Gate: {check.sentence}\n" in page


def test_roles_have_limits_of_their_own() -> None:
    assert [limit_of(role, gate=GATE) for role in Role] == [-0.02, 0.01, -0.05, None]
    assert [limit_of(role, gate=GateConfig()) for role in Role] == [None] * 4
    check = judged(Truth(clusters=500, flips=0.1), role=Role.none)
    assert check.verdict is Verdict.not_declared
    assert check.sentence.endswith("on 500 items; no limit was declared")


def test_no_drop_at_all_is_a_limit_of_zero() -> None:
    gate = GateConfig(usefulness_drop_max_points=0.0)
    check = judged(Truth(clusters=500, flips=0.1), role=Role.usefulness, gate=gate)
    assert "the declared limit is +0" in check.sentence


def test_a_suite_that_may_be_in_the_training_text_fails_where_that_is_required() -> None:
    gate = replace(GATE, require_decontaminated=True)
    suite = suite_of(Truth(clusters=4_000, flips=0.1))
    for known, verdict in ((None, "failed"), (False, "failed"), (True, "passed")):
        (check,) = judge({"law": replace(suite, decontaminated=known)}, gate=gate, seed=1)
        assert check.verdict == verdict
        assert ("not known to be decontaminated" in check.sentence) == (verdict == "failed")


def test_run_to_run_noise_can_leave_it_undecided_for_good() -> None:
    suite = suite_of(Truth(clusters=4_000, flips=0.1))
    values_N = np.array([item.score for item in suite.base.items])
    shifted = [scores(values_N + shift) for shift in (-0.04, 0.01, 0.05)]
    (check,) = judge({"law": replace(suite, repeats=(suite.base, *shifted))}, gate=GATE, seed=1)
    assert check.verdict is Verdict.not_enough_items
    assert (check.repeats, check.items_needed) == (4, None)
    assert "run-to-run noise" in check.sentence


def test_a_check_goes_to_json_as_it_is() -> None:
    tree = json.loads(json.dumps(asdict(judged(Truth(clusters=50, flips=0.1)))))
    assert (tree["role"], tree["verdict"]) == ("retention", "not enough items")


@pytest.mark.parametrize(
    ("verdicts", "result"),
    [
        ("passed not_declared", "passed"),
        ("passed not_enough_items", "not enough items"),
        ("not_enough_items failed passed", "failed"),
        ("not_declared", "not declared"),
        ("", "not declared"),
    ],
)
def test_the_run_is_as_its_worst_suite(verdicts: str, result: str) -> None:
    assert overall(Verdict[name] for name in verdicts.split()) == result


def test_only_a_sure_drop_of_retention_is_one_to_stop_for() -> None:
    gate = replace(GATE, stop_drop_points=5.0)
    suites = {
        "dropped": suite_of(Truth(clusters=1_000, flips=0.12, difference=-0.08)),
        "unsure": suite_of(Truth(clusters=25, flips=0.3, difference=-0.15)),
        "small": suite_of(Truth(clusters=4_000, flips=0.05, difference=-0.03)),
        "gain": suite_of(Truth(clusters=1_000, flips=0.12, difference=-0.08), role=Role.gain),
    }
    assert [check.suite for check in sure_drops(suites, gate=gate, seed=1)] == ["dropped"]


def verdict_rates(truth: Truth, *, limit: float, suites: int = 2_000) -> tuple[float, float]:
    """Shares passed and failed, as ``judge`` decides for one suite."""
    generator, passed, failed = np.random.default_rng(8), 0, 0
    for seed in range(suites):
        found = difference(truth.draw(generator), seed=seed, resamples=1_000)
        passed += found.p_at_most(limit) <= TAIL
        failed += found.p_at_least(limit) <= TAIL
    return passed / suites, failed / suites


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        Truth(clusters=1_000, flips=0.1, difference=-0.02),
        Truth(clusters=57, size=10, flips=0.15, difference=-0.02, alike=0.05),
    ],
    ids=str,
)
def test_a_model_at_the_limit_passes_or_fails_by_chance_at_most_as_often_as_stated(
    truth: Truth,
) -> None:
    passed, failed = verdict_rates(truth, limit=-0.02)
    # 2.5 %, and three standard errors of 0.35 % of a share of 2,000.
    assert passed <= 0.036
    assert failed <= 0.036


@pytest.mark.slow
def test_of_six_suites_at_their_limits_one_fails_by_chance_at_most_as_often_as_stated() -> None:
    """And without the correction about six times as often."""
    truth, runs, tail = Truth(clusters=500, flips=0.1, difference=-0.02), 2_000, TAIL
    generator, corrected, uncorrected = np.random.default_rng(9), 0, 0
    for seed in range(runs):
        p = {
            str(n): difference(
                truth.draw(generator), seed=6 * seed + n, resamples=1_000
            ).p_at_least(-0.02)
            for n in range(6)
        }
        uncorrected += min(p.values()) <= tail
        corrected += min(holm(p).values()) <= tail
    assert corrected / runs <= 0.036
    assert uncorrected / runs >= 0.09
