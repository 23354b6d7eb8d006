# SPDX-License-Identifier: Apache-2.0
"""A gate's fingerprint changes with its limits and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megacpt.config.declared import declares_limit, gate_fingerprint
from megacpt.config.sections import (
    BenchmarkConfig,
    BenchmarkRole,
    EvaluateConfig,
    GateConfig,
    RunConfig,
    ScheduleConfig,
    UsefulnessConfig,
    UsefulnessMetric,
)

GATE = GateConfig(retention_drop_max_points=2.0)
CONFIG = RunConfig(evaluate=EvaluateConfig(general="web", gate=GATE))
ADVICE = UsefulnessConfig(questions="q.jsonl", metric=UsefulnessMetric.contains)
LAW = BenchmarkConfig(task="law", role=BenchmarkRole.retention)


@pytest.mark.parametrize(
    "evaluate",
    [
        EvaluateConfig(general="web", gate=replace(GATE, retention_drop_max_points=2.5)),
        EvaluateConfig(general="web", gate=replace(GATE, confidence=0.9)),
        EvaluateConfig(general="web", gate=replace(GATE, require_decontaminated=True)),
        EvaluateConfig(general="news", gate=GATE),
        EvaluateConfig(general="web", gate=GATE, benchmarks={"law": LAW}),
        EvaluateConfig(general="web", gate=GATE, usefulness={"advice": ADVICE}),
    ],
)
def test_limits_and_what_they_judge_change_it(evaluate: EvaluateConfig) -> None:
    assert gate_fingerprint(replace(CONFIG, evaluate=evaluate)) != gate_fingerprint(CONFIG)


def test_nothing_else_does() -> None:
    other = replace(CONFIG, seed=7, run_dir="elsewhere", schedule=ScheduleConfig(steps=3))
    more = replace(other, evaluate=replace(CONFIG.evaluate, every_steps=3, max_new_tokens=9))
    assert gate_fingerprint(more) == gate_fingerprint(CONFIG)
    measured_only = {"law": replace(LAW, role=BenchmarkRole.none)}
    benchmarks = replace(CONFIG, evaluate=replace(CONFIG.evaluate, benchmarks=measured_only))
    assert gate_fingerprint(benchmarks) == gate_fingerprint(CONFIG)


def test_without_a_limit_suites_may_come_and_go() -> None:
    asked = EvaluateConfig(benchmarks={"law": LAW}, usefulness={"advice": ADVICE})
    assert gate_fingerprint(RunConfig(evaluate=asked)) == gate_fingerprint(RunConfig())


def test_confidence_alone_limits_nothing() -> None:
    assert not declares_limit(GateConfig(confidence=0.9, require_decontaminated=True))
    assert declares_limit(GateConfig(gain_min_points=0.0))
    assert declares_limit(GateConfig(forgetting_max_nats=0.1))
