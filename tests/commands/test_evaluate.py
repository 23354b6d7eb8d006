# SPDX-License-Identifier: Apache-2.0
"""The verb on models that are no run's: lm-eval's scores, two beside each other."""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from megacpt.cli import main
from megacpt.evaluate.items import read_scores
from tests.evaluate.benchmarks.local_tasks import QUESTIONS, write_tasks
from tests.forked import PYTHON
from tests.serve.folders import write_model
from tests.support import write_model_folder

TOLERANCE = 1e-6
"""An accuracy is right or wrong items over their number."""


def evaluated(*words: str, folder: Path) -> str:
    command = [PYTHON, "-m", "megacpt", "evaluate", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def score_of_lm_eval(model: Path, *, task: str, tasks: Path) -> float:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    peer = HFLM(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(model),
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(peer, tasks=[task], task_manager=manager, bootstrap_iters=0)
    return float(found["results"][task]["acc,none"])


@pytest.mark.slow
@pytest.mark.mcore
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval: megacpt[eval]")
def test_models_are_asked_what_lm_eval_asks(tmp_path: Path) -> None:
    models = [
        write_model(tmp_path / name, hidden_size=size) for name, size in {"a": 32, "b": 64}.items()
    ]
    tasks = write_tasks(tmp_path / "tasks")
    asked = ["--task", "choices", "--task", str(tasks / "letters.yaml"), "--dtype", "fp32"]
    words = [*asked, "--include-path", str(tasks)]
    alone = evaluated("b", *words, folder=tmp_path)
    output = tmp_path / "evaluations" / "b"
    assert "score" in alone
    assert len(read_scores(output / "benchmarks" / "model" / "choices.jsonl").items) == len(
        QUESTIONS
    )
    beside = evaluated("a", "b", *words, "--output", str(output), folder=tmp_path)
    result = json.loads((output / "evaluation.json").read_text())
    for model, found, label in zip(models, result["benchmarks"], ("base", "final"), strict=True):
        for task in ("choices", "letters"):
            expected = score_of_lm_eval(model, task=task, tasks=tasks)
            assert found[task]["mean"] == pytest.approx(expected, abs=TOLERANCE)
            scores = read_scores(output / "benchmarks" / label / f"{task}.jsonl")
            assert scores.mean == found[task]["mean"]
    assert [check["suite"] for check in result["suites"]] == ["choices", "letters"]
    for check in result["suites"]:
        assert check["sentence"] in beside
        assert check["low_points"] < check["difference_points"] < check["high_points"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["evaluate", *words]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run, adapter = (tmp_path / name for name in ("model", "run", "adapter"))
    write_model_folder(model)
    for folder, file in {run: "run.yaml", adapter: "adapter_config.json"}.items():
        folder.mkdir()
        (folder / file).touch()
    task = ("--task", "arc_easy")
    assert "add --task NAME" in refused(capsys, str(model))
    assert "--task is for models" in refused(capsys, str(run), *task)
    assert "--limit is for models" in refused(capsys, str(run), "--limit", "0")
    assert "--output is for models" in refused(capsys, str(run), "--output", "x")
    assert "is a run; beside another" in refused(capsys, str(model), str(run), *task)
    assert "merge it first" in refused(capsys, str(adapter), *task)
    assert "3 models were named" in refused(capsys, *[str(model)] * 3, *task)
    assert "--limit=-1 is below 0" in refused(capsys, str(model), *task, "--limit", "-1")
    assert "one suite twice" in refused(capsys, str(model), *task, *task)
    assert "is a run folder" in refused(capsys, str(model), *task, "--output", str(run))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert "this is a rank of several" in refused(capsys, str(model), *task)
    assert not list(tmp_path.glob("**/benchmarks"))
