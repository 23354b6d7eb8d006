# SPDX-License-Identifier: Apache-2.0
"""The gate on trained models, a small one and SmolLM2-135M: a planted regression is caught, a sane
run passes, and a tiny suite has not enough items."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from megacpt.demo import texts
from megacpt.demo.quickstart import opening
from megacpt.shards.reader import write_shard
from megacpt.tokenizer import load_tokenizer
from tests.run_on_ranks import run_on_ranks
from tests.train.parity import write_run_inputs
from tests.train.sentences import sentences, write_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mcore,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval"),
]
STEPS = 3
SMOLLM2_LR = 2e-4
"""The quickstart's; a wild run has twenty times as much, and learns plays alone."""


def settings(work: Path, *, lr_peak: float, limit_points: float) -> dict[str, Any]:
    suite = {"task": "sentences", "include_path": str(work / "tasks"), "role": "retention"}
    return {
        "schedule": {"steps": STEPS, "warmup_steps": 0, "shape": "constant"},
        "optim": {"lr_peak": lr_peak},
        "checkpoint": {"every_steps": STEPS},
        "faults": {"spike": "ignore"},
        "evaluate": {
            "heldout": {"late": {"prefix": str(work / "late"), "max_tokens": 256}},
            "benchmarks": {"sentences": suite, "few": {**suite, "limit": 2}},
            "gate": {"retention_drop_max_points": limit_points},
        },
    }


def of_a_small_model(work: Path) -> dict[str, dict[str, Any]]:
    write_run_inputs(work, tied=False)
    write_task(work / "tasks", texts=sentences())
    # Half a nat a word.
    return {
        name: settings(work, lr_peak=lr, limit_points=50.0)
        for name, lr in (("sane", 1e-4), ("wild", 0.1))
    }


def of_smollm2(work: Path, *, model: Path) -> dict[str, dict[str, Any]]:
    """It learns plays, replays manuals, and may not lose pages of Python's manual."""
    (work / "model").symlink_to(model)
    tokenizer = load_tokenizer(model)
    plays, pages = [*texts.plays().values()], texts.pages()
    documents = {
        "domain": [opening(play.text, characters=8000) for play in plays[:2]],
        "more": [opening(play.text, characters=8000) for play in plays[2:4]],
        "replay": [manual.text for manual in texts.manuals()[:4]],
        "late": [page.text[:1500] for page in pages[:4]],
    }
    for name, found in documents.items():
        write_shard(
            work / name,
            documents=(tokenizer.encode(text) for text in found),
            vocab_size=tokenizer.vocab_size,
        )
    write_task(work / "tasks", texts=[opening(page.text, characters=300) for page in pages])
    shape = {"sequence_length": 128, "global_batch_size": 4, "micro_batch_size": 4}
    sources = {"sane": {}, "wild": {"replay": {"prefix": str(work / "more")}}}
    return {
        name: settings(work, lr_peak=lr, limit_points=20.0)
        | {"model": {"init": "pretrained"}, "data": {**shape, "sources": sources[name]}}
        for name, lr in (("sane", SMOLLM2_LR), ("wild", 20 * SMOLLM2_LR))
    }


@pytest.fixture(
    scope="module", params=["small", pytest.param("smollm2", marks=pytest.mark.thorough)]
)
def evaluations(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    work = tmp_path_factory.mktemp("gate")
    if request.param == "small":
        cases = of_a_small_model(work)
    else:
        cases = of_smollm2(work, model=request.getfixturevalue("smollm2"))
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
