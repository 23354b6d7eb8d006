# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of a run: in training and at its end, base beside candidate; one rank and two."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from megacpt.evaluate.items import read_scores
from tests.evaluate.benchmarks.local_tasks import QUESTIONS, TEXTS, write_tasks
from tests.run_on_ranks import run_on_ranks
from tests.train.parity import write_run_inputs

pytestmark = [
    pytest.mark.mcore,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval: megacpt[eval]"),
]
STEPS = 4


def settings(work: Path, **parallel: Any) -> dict[str, Any]:
    def benchmark(task: str, **changes: Any) -> dict[str, Any]:
        return {"task": task, "include_path": str(work / "tasks"), **changes}

    return {
        "parallel": parallel,
        "schedule": {"steps": STEPS, "warmup_steps": 1, "shape": "constant"},
        "optim": {"lr_peak": 3e-2},
        "checkpoint": {"every_steps": STEPS},
        "evaluate": {
            "heldout": {"late": {"prefix": str(work / "late")}},
            "benchmarks": {
                "kept": benchmark("letters", every_steps=2, limit=4, role="retention"),
                "texts": benchmark("rolling", every_steps=STEPS, role="gain"),
                "answers": benchmark("written"),
            },
        },
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("benchmarks")
    write_run_inputs(work, tied=False)
    write_tasks(work / "tasks")
    target = "tests.train.benchmark_runs:train_and_evaluate"
    run_on_ranks(target, work, world=1, cases={"one": settings(work)})
    run_on_ranks(target, work, world=2, cases={"pp2": settings(work, pp=2)})
    return work


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())["benchmarks"]
    return found


def records(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record.get("benchmarks", {}) for record in map(json.loads, lines)}


@pytest.mark.parametrize("run", ["one", "pp2"])
def test_every_suite_has_items_of_base_and_final(run: str, work: Path) -> None:
    found = evaluation(work / run)
    assert {name: (each["role"], each["items"]) for name, each in found.items()} == {
        "kept": ("retention", 4),
        "texts": ("gain", len(TEXTS)),
        "answers": ("none", len(QUESTIONS)),
    }
    for name, each in found.items():
        base, final = (
            read_scores(work / run / "benchmarks" / label / f"{name}.jsonl")
            for label in ("base", "final")
        )
        assert [item.id for item in base.items] == [item.id for item in final.items]
        assert base.model != final.model
        assert (each["base"], each["final"]) == (base.mean, final.mean)
        assert each["not_decontaminated"] == ["domain", "replay"]
    assert found["texts"]["base"] != found["texts"]["final"]


@pytest.mark.parametrize("run", ["one", "pp2"])
def test_training_measures_on_schedule(run: str, work: Path) -> None:
    due = {step: sorted(found) for step, found in records(work / run).items()}
    assert due == {0: ["kept", "texts"], 1: [], 2: ["kept"], 3: [], 4: ["kept", "texts"]}
    last, final = records(work / run)[STEPS], evaluation(work / run)
    for name in ("kept", "texts"):
        assert last[name]["mean"] == final[name]["final"]
    # The items' subject is what they have in common.
    scores = read_scores(work / run / "benchmarks" / "step-2" / "kept.jsonl")
    assert {item.cluster for item in scores.items} == {
        f"subject={subject}" for *_, subject in QUESTIONS[:4]
    }


def test_two_stages_score_as_one_rank(work: Path) -> None:
    one, two = (evaluation(work / run) for run in ("one", "pp2"))
    for name, each in one.items():
        assert two[name]["base"] == pytest.approx(each["base"], abs=1e-4)


def test_the_same_weights_are_asked_once(work: Path) -> None:
    """In training and by evaluate: base and two steps, as those of the last step are final's."""
    answers = list((work / "one" / "benchmarks" / "answers").glob("*.jsonl"))
    assert len(answers) == 3
