# SPDX-License-Identifier: Apache-2.0
"""The gate on suites of items: differences with intervals against limits declared before training.

A suite passes if its interval lies on the right side of its limit, and fails if it lies on the
wrong one; where the limit is inside, it has not enough items. Failing is corrected by Holm for the
number of suites with a limit: of many, one fails by chance alone. Passing needs no correction: the
gate is passed only if every suite is, so that one which should not hinders it (an intersection-
union test; Berger, 1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from megacpt.config.sections import GateConfig
from megacpt.evaluate.gate import Verdict
from megacpt.evaluate.items import Scores
from megacpt.evaluate.statistics.difference import FEWEST_CLUSTERS, Difference, difference
from megacpt.evaluate.statistics.holm import holm
from megacpt.evaluate.statistics.mcnemar import mcnemar_p
from megacpt.evaluate.statistics.noise import noise_of
from megacpt.evaluate.statistics.pairing import Pairs, flips, pair
from megacpt.evaluate.statistics.sample_size import POWER, items_needed

POINT = 0.01
"""Of a score."""


class Role(StrEnum):
    """What a suite is measured for."""

    retention = "retention"
    gain = "gain"
    usefulness = "usefulness"
    none = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One suite's measurements. ``repeats``: of the run's base, with other seeds or orders of the
    prompt, the first among them; fewer than two say nothing of noise. ``decontaminated``: whether
    all text trained on was, against it; None: not known."""

    role: Role
    base: Scores
    final: Scores
    repeats: tuple[Scores, ...] = ()
    decontaminated: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteCheck:
    """One suite's row, for evaluation.json. Points are hundredths of the score."""

    suite: str
    role: Role
    metric: str
    items: int
    clusters: int
    base: float
    final: float
    difference_points: float
    low_points: float
    high_points: float
    confidence: float
    limit_points: float | None
    """The difference that the interval must lie above; None: none was declared."""
    p_value: float
    """Of no difference at all: McNemar's exact test where items stand alone and are right or wrong,
    else by the bootstrap."""
    p_holm: float
    """The same, corrected for the number of suites."""
    design_effect: float
    noise_points: float
    """Standard error of the difference from run to run, whatever the number of items."""
    repeats: int
    gained: int
    lost: int
    """Items that flipped, from wrong to right and back."""
    decontaminated: bool | None
    verdict: Verdict
    items_needed: int | None
    """For a decision; None: there is one, or no number is enough."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    suite: Suite
    pairs: Pairs
    difference: Difference
    limit: float | None

    @property
    def p_value(self) -> float:
        alone = self.pairs.is_right_or_wrong and not self.pairs.is_clustered
        if alone and self.difference.noise.standard_error == 0:
            return mcnemar_p(self.pairs)
        return self.difference.p_of_none()


def judge(suites: Mapping[str, Suite], *, gate: GateConfig, seed: int) -> list[SuiteCheck]:
    """``suites``: name -> measurements; one check each, in their order."""
    measured = {name: _measure(suite, gate=gate, seed=seed) for name, suite in suites.items()}
    p_fail = holm(
        {
            name: found.difference.p_at_least(found.limit)
            for name, found in measured.items()
            if found.limit is not None
        }
    )
    p_none = holm({name: found.p_value for name, found in measured.items()})
    return [
        _check(name, found=found, gate=gate, p_fail=p_fail.get(name, 1.0), p_holm=p_none[name])
        for name, found in measured.items()
    ]


def _measure(suite: Suite, *, gate: GateConfig, seed: int) -> _Measured:
    pairs = pair(suite.base, candidate=suite.final)
    return _Measured(
        suite=suite,
        pairs=pairs,
        difference=difference(pairs, seed=seed, noise=noise_of(suite.repeats)),
        limit=limit_of(suite.role, gate=gate),
    )


def limit_of(role: Role, *, gate: GateConfig) -> float | None:
    """The difference, in units of the score, that must surely be exceeded."""
    points = {
        Role.retention: _negative(gate.retention_drop_max_points),
        Role.gain: gate.gain_min_points,
        Role.usefulness: _negative(gate.usefulness_drop_max_points),
        Role.none: None,
    }[role]
    return None if points is None else points * POINT


def _negative(points: float | None) -> float | None:
    """A drop as a difference; of 0 it is 0, not -0.0, which would be shown."""
    return None if points is None else 0.0 - points


def _check(
    name: str, *, found: _Measured, gate: GateConfig, p_fail: float, p_holm: float
) -> SuiteCheck:
    suite, measured = found.suite, found.difference
    interval = measured.interval(gate.confidence)
    verdict = _verdict(found, gate=gate, p_fail=p_fail)
    needed = _needed(found, gate=gate) if verdict is Verdict.not_enough_items else None
    flipped = flips(suite.base, candidate=suite.final)
    check = SuiteCheck(
        suite=name,
        role=suite.role,
        metric=suite.base.metric,
        items=measured.num_items,
        clusters=measured.num_clusters,
        base=suite.base.mean,
        final=suite.final.mean,
        difference_points=measured.estimate / POINT,
        low_points=interval.low / POINT,
        high_points=interval.high / POINT,
        confidence=gate.confidence,
        limit_points=None if found.limit is None else found.limit / POINT,
        p_value=found.p_value,
        p_holm=p_holm,
        design_effect=measured.design_effect,
        noise_points=measured.noise.standard_error / POINT,
        repeats=measured.noise.repeats,
        gained=sum(flip.candidate > flip.base for flip in flipped),
        lost=sum(flip.candidate < flip.base for flip in flipped),
        decontaminated=suite.decontaminated,
        verdict=verdict,
        items_needed=needed,
        sentence="",
    )
    return replace(check, sentence=sentence(check, gate=gate))


def _verdict(found: _Measured, *, gate: GateConfig, p_fail: float) -> Verdict:
    if found.limit is None:
        return Verdict.not_declared
    if _may_be_known(found.suite.role, decontaminated=found.suite.decontaminated, gate=gate):
        return Verdict.failed
    tail = (1 - gate.confidence) / 2
    if found.difference.p_at_most(found.limit) <= tail:
        return Verdict.passed
    return Verdict.failed if p_fail <= tail else Verdict.not_enough_items


def _may_be_known(role: Role, *, decontaminated: bool | None, gate: GateConfig) -> bool:
    """Questions of usefulness are the user's own, and not looked for in the text trained on."""
    return gate.require_decontaminated and role is not Role.usefulness and not decontaminated


def _needed(found: _Measured, *, gate: GateConfig) -> int | None:
    """For a model that has not changed and a limit on drops; where so many are there already, or
    the limit is on gains, for the difference as it was measured."""
    limit, measured = found.limit or 0.0, found.difference
    distances = [-limit] if limit < 0 else []
    for distance in (*distances, abs(measured.estimate - limit)):
        if distance > 0:
            needed = items_needed(measured, distance=distance, confidence=gate.confidence)
            if needed is None or needed > measured.num_items:
                return needed
    return None


def sentence(check: SuiteCheck, *, gate: GateConfig) -> str:
    """``mmlu retention passed: -0.4 points [-1.6, +0.8] on 1,531 items, the declared limit is
    -2``."""
    measured = (
        f"{check.difference_points:+.1f} points "
        f"[{check.low_points:+.1f}, {check.high_points:+.1f}] on {check.items:,} items"
    )
    name = check.suite if check.role is Role.none else f"{check.suite} {check.role}"
    if check.limit_points is None:
        return f"{name}: {measured}; no limit was declared"
    text = f"{name} {check.verdict}: {measured}, the declared limit is {check.limit_points:+g}"
    if _may_be_known(check.role, decontaminated=check.decontaminated, gate=gate):
        text += "; the text trained on is not known to be decontaminated against it"
    if check.verdict is Verdict.not_enough_items:
        text += f"; {_missing(check)}"
    return text


def _missing(check: SuiteCheck) -> str:
    if check.clusters < FEWEST_CLUSTERS:
        return "all of them are one cluster, which says nothing of others: add items of more"
    if check.items_needed is None:
        return "no number of items decides it: run-to-run noise is too large, or it is at the limit"
    return f"{check.items_needed:,} items would decide it with {POWER:.0%} chance"


def sure_drops(suites: Mapping[str, Suite], *, gate: GateConfig, seed: int) -> list[SuiteCheck]:
    """Retention suites that dropped by ``gate.stop_drop_points`` or more, and not by chance."""
    retention = {name: s for name, s in suites.items() if s.role is Role.retention}
    return [
        check
        for check in judge(retention, gate=gate, seed=seed)
        if check.difference_points <= -gate.stop_drop_points and check.p_holm <= 1 - gate.confidence
    ]
