# SPDX-License-Identifier: Apache-2.0
"""A run that loses what its base model can is ended where that was asked for, on all ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacpt.commands import model
from megacpt.config.sections import (
    BenchmarkConfig,
    BenchmarkRole,
    EvaluateConfig,
    GateAction,
    GateConfig,
    RunConfig,
)
from megacpt.evaluate.items import write_scores
from megacpt.train.guard.retention import RetentionGuard
from tests.evaluate.statistics.suites import Truth, scores_of
from tests.run_on_ranks import run_on_ranks
from tests.train.parity import write_run_inputs
from tests.train.sentences import sentences, write_task


def settings(work: Path, *, lr_peak: float, action: str) -> dict[str, Any]:
    suite = {
        "task": "sentences",
        "include_path": str(work / "tasks"),
        "every_steps": 2,
        "role": "retention",
    }
    return {
        "schedule": {"steps": 4, "warmup_steps": 0, "shape": "constant"},
        "optim": {"lr_peak": lr_peak},
        "checkpoint": {"every_steps": 4},
        "faults": {"spike": "ignore"},
        "evaluate": {
            "heldout": {"late": {"prefix": str(work / "late")}},
            "benchmarks": {"sentences": suite},
            "gate": {"action": action},
        },
    }


def forgetful(work: Path) -> dict[str, Any]:
    """The wild run without a suite, watched on its held-out set."""
    run = settings(work, lr_peak=2.0, action="stop")
    watched = {
        "general": "late",
        "every_steps": 2,
        "benchmarks": {},
        "gate": {"action": "stop", "stop_forgetting_nats": 0.1},
    }
    return {**run, "evaluate": run["evaluate"] | watched, "parallel": {"dp": 2}}


@pytest.mark.slow
@pytest.mark.mcore
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
def test_a_wild_run_is_ended_on_all_ranks_and_others_are_not(tmp_path: Path) -> None:
    write_run_inputs(tmp_path, tied=False)
    write_task(tmp_path / "tasks", texts=sentences())
    run_on_ranks(
        "tests.train.guard.retention_runs:train_until_it_drops",
        tmp_path,
        world=2,
        cases={
            name: {**settings(tmp_path, lr_peak=lr, action=action), "parallel": {"dp": 2}}
            for name, lr, action in (
                ("wild", 2.0, "stop"),
                ("sane", 1e-4, "stop"),
            )
        }
        | {"forgetful": forgetful(tmp_path)},
    )
    ends = {
        name: {(tmp_path / f"{name}.{rank}.txt").read_text() for rank in range(2)}
        for name in ("wild", "sane", "forgetful")
    }
    (wild,) = ends["wild"]
    assert wild.startswith("Ended after step 2: retention has dropped, sentences by ")
    assert ends["sane"] == {"to the end"}
    (forgetful_words,) = ends["forgetful"]
    assert forgetful_words.startswith("Ended after step 2: retention has dropped, +")
    assert "nats a token on late (evaluate.gate.stop_forgetting_nats is 0.1)" in forgetful_words
    assert len((tmp_path / "forgetful" / "metrics.jsonl").read_text().splitlines()) >= 2
    last = (tmp_path / "wild" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "benchmarks" in json.loads(last)


DROP = Truth(clusters=1_000, flips=0.1, difference=-0.07)


def fault(run_dir: Path, *, truth: Truth, gate: GateConfig, step: int = 50) -> str:
    """The words of the guard on a run whose one suite has that truth; empty where it goes on."""
    base, now = scores_of(truth.draw(np.random.default_rng(1)))
    for label, scores in (("base", base), (f"step-{step}", now)):
        write_scores(run_dir / "benchmarks" / label / "law.jsonl", scores=scores)
    suite = BenchmarkConfig(task="law", role=BenchmarkRole.retention)
    evaluate = EvaluateConfig(benchmarks={"law": suite}, gate=gate)
    guard = RetentionGuard(config=RunConfig(run_dir=str(run_dir), evaluate=evaluate))
    return str(guard.fault({"benchmarks": {}}, step=step) or "")


@pytest.fixture
def one_rank() -> Iterator[None]:
    with model.one_rank():
        yield


@pytest.mark.usefixtures("one_rank")
def test_a_planted_drop_ends_it_and_chance_does_not(tmp_path: Path) -> None:
    stop = GateConfig(action=GateAction.stop, stop_drop_points=5.0)
    words = fault(tmp_path / "dropped", truth=DROP, gate=stop)
    assert words.startswith("Ended after step 50: retention has dropped, law by ")
    assert "lower optim.lr_peak" in words
    few = replace(DROP, clusters=20, flips=0.3, difference=-0.1)
    assert fault(tmp_path / "few", truth=few, gate=stop) == ""
    assert fault(tmp_path / "reported", truth=DROP, gate=GateConfig()) == ""
    # The last step of a hundred ends the run by itself.
    assert fault(tmp_path / "last", truth=DROP, gate=stop, step=100) == ""


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("gate", "nats", "ends"),
    [
        (GateConfig(action=GateAction.stop, stop_forgetting_nats=0.05), 0.05, True),
        (GateConfig(action=GateAction.stop, stop_forgetting_nats=0.05), float("nan"), True),
        (GateConfig(action=GateAction.stop, stop_forgetting_nats=0.05), 0.049, False),
        (GateConfig(action=GateAction.stop), 9.0, False),
        (GateConfig(stop_forgetting_nats=0.05), 9.0, False),
    ],
)
def test_forgetting_beyond_its_limit_ends_it(gate: GateConfig, nats: float, ends: bool) -> None:
    guard = RetentionGuard(config=RunConfig(evaluate=EvaluateConfig(general="web", gate=gate)))
    words = str(guard.fault({"forgetting": nats}, step=50) or "")
    assert bool(words) is ends
    assert words == "" or "nats a token on web" in words
