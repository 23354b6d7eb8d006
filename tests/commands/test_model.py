# SPDX-License-Identifier: Apache-2.0
"""Verbs whose model is named by its id on the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from megacpt.cli import main
from megacpt.commands.model import DownloadLine, model_of_run, with_model
from megacpt.config.compose import compose, read_run_yaml
from megacpt.errors import EnvironmentError_
from megacpt.families import param_rows, read_architecture
from tests.hub_server import HubServer, Repo, use
from tests.support import LLAMA, write_model_folder

FEW = [f"data.sources.{name}.synthetic.documents=9" for name in ("plant", "garden", "kitchen")]
TINY = ("experiment=tiny", "model=pretrained", "run_dir=run", *FEW)
SLURM = ("cluster=slurm", "cluster.device=cpu")
TOKEN = "hf_secret"


def weights(value: float) -> bytes:
    """A file of all that the small model has, each number being ``value``."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = read_architecture(write_model_folder(Path(folder) / "model"))
    return save(
        {
            source.name.format(layer=layer): np.full(source.shape(architecture), value, np.float32)
            for row in param_rows(architecture)
            for source in row.sources
            for layer in range(architecture.num_layers if row.per_layer else 1)
        }
    )


WEIGHTS, OTHERS = weights(0.0), weights(1.0)


@pytest.fixture
def repo(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """org/tiny on the hub, by a folder that is empty otherwise; a token is set."""
    folder = write_model_folder(tmp_path / "files")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = hub.repos["org/tiny"] = Repo()
    made.commit(files | {"model.safetensors": WEIGHTS, "LICENSE": b"the licence"})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return made


def moved(repo: Repo) -> str:
    """What the branch points to after a commit more."""
    return repo.commit(repo.commits[repo.refs["main"]] | {"model.safetensors": OTHERS})


def prepared(*words: str) -> Path:
    """The model's folder in run.yaml, after what a batch script does first."""
    assert main(["launch", "--prepare-only", "1", *TINY, *words]) == 0
    return Path(str(read_run_yaml(Path("run/run.yaml")).model.path))


def folder_of(name: str, *words: str) -> Path:
    return Path(str(with_model(compose([*TINY, f"model.path={name}", *words])).model.path))


def files_with(text: str, *, folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_a_plan_names_the_commit_and_fetches_no_weights(
    hub: HubServer, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("org/tiny", "org/tiny@main", "hf://org/tiny"):
        assert main(["plan", *TINY, f"model.path={name}"]) == 0
        said = capsys.readouterr()
        assert f"\n             org/tiny@{repo.refs['main']}\n" in said.out
        assert f"model.path={name}" in said.out.splitlines()[-1]
        assert said.err == ""
    assert not any(request.host == "store" for request in hub.requests)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["models/llama", "org/tiny-2", "models/llama@v1"])
def test_what_is_neither_folder_nor_model_is_named_as_both(
    name: str, hub: HubServer, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *TINY, f"model.path={name}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"there is no folder {Path(name).absolute()}, so it is taken for a hub id" in said
    assert f"has no repository {name.partition('@')[0]} that you may see" in said


def test_a_folder_wins_and_that_is_said(
    hub: HubServer, repo: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tmp_path / "files", "org/tiny")
    assert main(["plan", *TINY, "model.path=org/tiny"]) == 0
    said = capsys.readouterr().err
    here = Path("org/tiny").absolute()
    other = "hf://org/tiny would be the hub's model."
    assert said == f"model.path=org/tiny is the folder {here}; {other}\n"
    assert hub.requests == []
    assert main(["plan", *TINY, f"model.path={here}/"]) == 0
    assert main(["plan", *TINY, "model.path=hf://org/tiny"]) == 0
    assert hub.requests


def test_tokenize_and_inspect_take_an_id(
    hub: HubServer, repo: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jsonl").write_text('{"text": "the law"}\n')
    for name, output in ((str(tmp_path / "files"), "x"), ("org/tiny", "y"), ("hf://org/tiny", "z")):
        assert main(["tokenize", "a.jsonl", "--tokenizer", name, "--output", output]) == 0
        assert f"Next: megacpt plan model.path={name} " in capsys.readouterr().out
        assert Path(f"{output}.bin").read_bytes() == Path("x.bin").read_bytes()
        assert main(["inspect", output, "--tokenizer", name]) == 0
        assert "the law" in capsys.readouterr().out
    assert "model.safetensors" not in hub.downloads()


def test_a_launch_brings_the_weights_and_pins_the_commit(
    hub: HubServer,
    repo: Repo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 4711\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    words = ["launch", *TINY, *SLURM, "model.path=org/tiny"]
    assert main([*words, "--dry-run"]) == 0
    assert (list(Path().iterdir()), "model.safetensors" in hub.downloads()) == ([], False)
    assert main(words) == 0
    commit = repo.refs["main"]
    folder = tmp_path / "cache" / "models--org--tiny" / "snapshots" / commit
    assert read_run_yaml(Path("run/run.yaml")).model.path == str(folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    said = capsys.readouterr()
    assert f"Downloading org/tiny@{commit}: 629.4 kB of weights to {folder}\n" in said.err
    assert json.loads(Path("run/plan.json").read_text())["hub_model"] == f"org/tiny@{commit}"
    assert files_with(TOKEN, folder=tmp_path) == []
    assert TOKEN not in said.out + said.err


@pytest.mark.parametrize(
    ("verb", "words", "wanted"),
    [
        (["train"], ["parallel.tp=3"], "parallel.tp=3 does not divide"),
        (["train"], ["data.sources.law.prefix=nowhere/law"], "is no token shard"),
        (["launch", *SLURM], ["cluster.slurm.signal_before_end=0"], "cluster.slurm.signal_before"),
        (["launch", "--prepare-only", "3"], [], "but 3 were started"),
    ],
)
def test_what_can_be_refused_is_before_weights_come(
    verb: list[str],
    words: list[str],
    wanted: str,
    hub: HubServer,
    repo: Repo,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*verb, *TINY, "model.path=org/tiny", *words]) == 2
    assert wanted in capsys.readouterr().err
    assert not any(request.host == "store" for request in hub.requests)


def test_a_run_keeps_its_commit_when_the_branch_moves(
    hub: HubServer, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    first = repo.refs["main"]
    folder = prepared("model.path=org/tiny")
    second = moved(repo)
    hub.requests.clear()
    for name in ("org/tiny", f"org/tiny@{first}", f"org/tiny@{first[:8]}", str(folder)):
        assert folder_of(name) == folder
    assert capsys.readouterr().err.count("the run goes on") == 0
    assert folder_of("org/tiny@main") == folder
    assert f"the run goes on with org/tiny@{first}, as" in capsys.readouterr().err
    # It has what it needs: nobody was asked.
    assert hub.requests == []
    assert main(["launch", "--prepare-only", "1", *TINY, f"model.path=org/tiny@{second}"]) == 2
    wanted = f"model.path: was org/tiny@{first}, now org/tiny@{second}\n"
    assert wanted in capsys.readouterr().err
    assert folder_of("org/tiny", "run_dir=other").name == second


@pytest.mark.slow
def test_a_lost_cache_is_filled_with_the_same_commit(
    hub: HubServer, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = repo.refs["main"]
    folder = prepared("model.path=org/tiny")
    moved(repo)
    shutil.rmtree(tmp_path / "cache")
    assert prepared("model.path=org/tiny") == folder
    # Another machine, or another HF_HOME.
    shutil.rmtree(tmp_path / "cache")
    use(hub, cache=tmp_path / "elsewhere", patch=monkeypatch)
    config = model_of_run(Path("run"), weights=True)
    there = tmp_path / "elsewhere" / "models--org--tiny" / "snapshots" / first
    assert config.model.path == str(there)
    assert read_run_yaml(Path("run/run.yaml")) == config
    assert (there / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert model_of_run(Path("run"), weights=True) == config
    assert hub.requests == []


def test_a_rank_is_given_the_folder_or_told_what_to_do(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    config = compose([*TINY, "model.path=org/tiny"])
    with pytest.raises(EnvironmentError_, match="does not hold org/tiny, and a rank downloads"):
        with_model(config, online=False)
    folder = prepared("model.path=org/tiny")
    hub.requests.clear()
    (folder / "model.safetensors").rename(folder / "away")
    with pytest.raises(EnvironmentError_, match="does not hold org/tiny@"):
        with_model(config, online=False)
    (folder / "away").rename(folder / "model.safetensors")
    assert with_model(config, online=False).model.path == str(folder)
    elsewhere = replace(config, run_dir=str(tmp_path / "new"))
    assert with_model(elsewhere, online=False).model.path == str(folder)
    assert hub.requests == []


def test_random_weights_need_none(hub: HubServer, repo: Repo) -> None:
    files = dict(repo.commits[repo.refs["main"]])
    del files["model.safetensors"]
    repo.commit(files)
    folder = prepared("model=random", "model.path=org/tiny")
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)


def test_an_interrupted_download_says_how_to_go_on(
    hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network went between plan and train; the same command later goes on."""
    words = ["launch", "--prepare-only", "1", *TINY, "model.path=org/tiny"]
    assert main(["plan", *TINY, "model.path=org/tiny"]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(words) == 2
    assert "HF_HUB_OFFLINE is set and the hub's cache" in capsys.readouterr().err
    assert list(Path().iterdir()) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert main(words) == 0


def test_progress_shows_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = DownloadLine("org/tiny", every_s=0)
    for done in (40_000_000, 40_000_000, 70_000_000):
        line(done, 100_000_000)
    line.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "org/tiny  40.0% of 100.0 MB  0 bytes/s"
    assert re.fullmatch(r"org/tiny  70.0% of 100.0 MB  [0-9.,]+ [kMGT]B/s  0:00 left", lines[2])


@pytest.mark.slow
def test_the_whole_way_with_ranks_that_ask_nobody(hub: HubServer, tmp_path: Path) -> None:
    """Real processes, with the variables that users set; the weights are a real model's."""
    # They take seconds to import.
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.LlamaConfig(**LLAMA)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "files")
    made = write_model_folder(tmp_path / "tokenizer")
    folders = [made, tmp_path / "files"]
    files = {path.name: path.read_bytes() for f in folders for path in f.iterdir()}
    repo = hub.repos["org/tiny"] = Repo(token=TOKEN)
    commit = repo.commit(files | {"LICENSE": b"the licence", "pytorch_model.bin": b"pickle"})
    variables = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def megacpt(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "megacpt", *words],
            env=os.environ | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    short = ["schedule.steps=2", "schedule.warmup_steps=1", "parallel.dp=2"]
    said = megacpt("train", *TINY, "model.path=org/tiny", *short)
    assert f"Downloading org/tiny@{commit}" in said
    # Each process that uses the hub's client would begin with one of these.
    first = [request for request in hub.requests if request.path == "/api/models/org/tiny"]
    assert len(first) == 1
    hub.requests.clear()
    repo.commit(files | {"config.json": b"{}"})
    said += megacpt("evaluate", "run") + megacpt("export", "run") + megacpt("report", "run")
    assert hub.requests == []
    assert f"the base model is org/tiny@{commit}" in said
    exported = tmp_path / "run" / "hf"
    certificate = json.loads((exported / "certificate.json").read_text())
    assert certificate["base_model"] == f"org/tiny@{commit}"
    assert (exported / "LICENSE").read_bytes() == b"the licence"
    assert f"org/tiny@{commit}" in (tmp_path / "run" / "report.html").read_text()
    assert files_with(str(tmp_path / "home"), folder=exported) == []
    assert files_with(TOKEN, folder=tmp_path) == []
    assert TOKEN not in said


def test_a_checkpoint_is_no_model_and_what_to_say_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that the message names plans the run it was asked for."""
    monkeypatch.chdir(tmp_path)
    folder = write_model_folder(tmp_path / "hf")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    assert main(["convert", "hf", "native"]) == 0
    capsys.readouterr()
    assert main(["plan", *TINY, "model.path=native"]) == 2
    said = capsys.readouterr().err
    settings = "model.path=native/hf model.init=random checkpoint.load_from=native"
    assert said == (
        f"Error: model.path={tmp_path}/native is a checkpoint, not a Hugging Face folder; use "
        f"{settings}, or write it as one: megacpt convert native native-hf\n"
    )
    assert main(["plan", *TINY, *settings.split()]) == 0
    planned = " ".join(capsys.readouterr().out.split())
    assert f"Begins with {tmp_path}/native (step 0): its weights" in planned
    words = ["vocabulary", "native", "--add", "hf/config.json", "--output", "grown"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "native is a checkpoint, not a Hugging Face folder; write it as one: megacpt" in said


def test_a_run_is_no_model_either(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = prepared("model.path=org/tiny")
    capsys.readouterr()
    assert main(["plan", *TINY[:2], "run_dir=other", *FEW, "model.path=run"]) == 2
    said = capsys.readouterr().err
    assert f"model.path=org/tiny@{stored.name} checkpoint" in said
    assert "run is a run folder, not a Hugging Face folder; use model.path=org/tiny@" in said
    assert "checkpoint.load_from=run, or write it as one: megacpt convert run run-hf" in said
