# SPDX-License-Identifier: Apache-2.0
"""The verb on runs: real models served here, servers of the test, a kill, data that would leave."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from megacpt.cli import main
from megacpt.config.compose import compose, write_run_yaml
from megacpt.evaluate.items import read_scores
from tests.evaluate.usefulness.test_suite import files, half_right, right
from tests.llama_cases import write_llama
from tests.openai_server import Answer, Server, served

SUITE = "evaluate.usefulness.sums"


def write_run(folder: Path, *settings: str, model: Path, rows: int = 12) -> Path:
    """A run of the model that was exported; ``model`` is its base."""
    questions = folder / "questions.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": f"{n}+{n}=", "reference": str(2 * n)}) for n in range(rows)]
    questions.write_text("\n".join(lines))
    words = [f"{SUITE}.questions={questions}", *(f"{SUITE}.{word}" for word in settings)]
    config = compose(
        [
            *("experiment=tiny", "model=pretrained", f"model.path={model}"),
            *(f"run_dir={folder}", *words),
        ]
    )
    write_run_yaml(config, path=folder / "run.yaml")
    return folder


def small_run(folder: Path, *settings: str, rows: int = 12) -> Path:
    """Of models whose weights only are read, for their fingerprints."""
    write_llama(folder.parent / "base")
    run = write_run(folder, *settings, model=folder.parent / "base", rows=rows)
    shutil.copytree(folder.parent / "base", run / "hf")
    return run


def servers(base: Server, final: Server) -> list[str]:
    return [
        *(f"base.url={base.url}", "base.model=b"),
        *(f"candidate.url={final.url}", "candidate.model=c"),
    ]


def test_a_killed_command_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    def slowly(prompt: str, number: int) -> Answer:
        time.sleep(0.1)
        return right(prompt, number)

    with served(Server(answer=half_right)) as base, served(Server(answer=slowly)) as final:
        settings = ["metric=exact_match", "concurrency=2", *servers(base, final)]
        run = small_run(tmp_path / "run", *settings, rows=30)
        command = [sys.executable, "-m", "megacpt", "usefulness", str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
            while len(final.bodies) < 9:
                time.sleep(0.01)
                assert killed.poll() is None, killed.communicate()
            killed.kill()
        before = len(final.bodies)
        assert not (run / "usefulness" / "final").exists()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert before < 30
        assert len(final.bodies) <= 30 + 3
        assert len(base.bodies) == 30
        once = files(run / "usefulness")
        shutil.rmtree(run / "usefulness")
        subprocess.run(command, check=True, capture_output=True)
    assert files(run / "usefulness") == once
    assert f"Next: megacpt evaluate {run}" in done.stdout
    assert "exact_match" in done.stdout


def test_another_model_of_a_server_is_asked(tmp_path: Path) -> None:
    """Where the first was named by mistake, its answers are not those of the other."""
    with served(Server(answer=half_right)) as base, served(Server(answer=right)) as final:
        words = servers(base, final)
        run = small_run(tmp_path / "run", "metric=exact_match", *words)
        assert main(["usefulness", str(run)]) == 0
        words[-1] = "candidate.model=other"
        (run / "run.yaml").unlink()
        write_run(run, "metric=exact_match", *words, model=tmp_path / "base")
        assert main(["usefulness", str(run)]) == 0
    assert [body["model"] for body in final.bodies] == ["c"] * 12 + ["other"] * 12
    assert len(base.bodies) == 12


def test_nothing_leaves_the_machine_without_a_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["metric=judge", "judge.url=https://judge.example/v1", "judge.model=m"]
    run = small_run(tmp_path / "run", *settings)
    assert main(["usefulness", str(run)]) == 2
    told = capsys.readouterr().err
    assert "Suite sums sends 12 questions with both answers, in both orders," in told
    assert "to judge.example. It is 24 requests" in told
    assert "nothing was sent: this data would leave this machine" in told
    assert not (run / "usefulness").exists()


def test_the_cloud_is_refused_without_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fi.evals")
    monkeypatch.delenv("FI_API_KEY", raising=False)
    settings = ["metric=future_agi", "future_agi.metric=groundedness", "future_agi.cloud=true"]
    assert main(["usefulness", str(small_run(tmp_path / "run", *settings)), "--yes"]) == 2
    assert "future_agi.cloud=true needs FI_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("remove", "words", "message"),
    [
        ("hf", [], "is a run that was not exported"),
        ("", ["--suite", "law"], "--suite law is not declared; use sums"),
        ("questions.jsonl", [], "cannot be read as UTF-8"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    remove: str,
    words: list[str],
    message: str,
) -> None:
    run = small_run(tmp_path / "run", "metric=exact_match")
    if remove:
        path = run / remove
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["usefulness", str(run), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_both_models_of_a_run_are_served_and_asked(
    tmp_path: Path, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trained model here has lost its head, so that it must be worse; a pipeline asks it."""
    code = (
        "import json, os, sys, urllib.request as r; b = json.dumps({'model': "
        "os.environ['OPENAI_MODEL'], 'prompt': 'The capital of ' + sys.stdin.read() + ' is', "
        "'max_tokens': 4, 'temperature': 0}).encode(); q = r.Request(os.environ["
        "'OPENAI_BASE_URL'] + '/completions', b, {'Content-Type': 'application/json'}); "
        "print(json.load(r.urlopen(q))['choices'][0]['text'])"
    )
    run = write_run(
        tmp_path / "run",
        *("metric=contains", "failures_max=1", "concurrency=2"),
        f"command='{shlex.join([sys.executable, '-c', code]).replace(chr(39), chr(92) + chr(39))}'",
        model=smollm2,
    )
    capitals = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin"}
    rows = [json.dumps({"prompt": k, "reference": v}) for k, v in capitals.items()]
    (run / "questions.jsonl").write_text("\n".join(rows))
    shutil.copytree(smollm2, run / "hf")
    weights = load_file(run / "hf" / "model.safetensors")
    weights["model.norm.weight"] = -weights["model.norm.weight"]
    save_file(weights, run / "hf" / "model.safetensors", metadata={"format": "pt"})
    assert main(["usefulness", str(run)]) == 0
    scores = {
        role: read_scores(run / "usefulness" / role / "sums.jsonl") for role in ("base", "final")
    }
    assert scores["base"].mean >= 0.5
    assert scores["final"].mean == 0
    assert scores["base"].model != scores["final"].model
    assert f"Next: megacpt evaluate {run}" in capsys.readouterr().out
