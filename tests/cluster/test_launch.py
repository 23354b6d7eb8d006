# SPDX-License-Identifier: Apache-2.0
"""What is there before sbatch is called, and what its answers lead to; sbatch is a small script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megacpt.cluster.launch import Launched, dry_run, launch
from megacpt.cluster.slurm import job_name
from megacpt.config.compose import compose, read_run_yaml
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError, EnvironmentError_

PYTHON = "/shared/python"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder on PATH."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add_sbatch(commands: Path, *lines: str) -> None:
    script = commands / "sbatch"
    script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    script.chmod(0o755)


def run(tmp_path: Path, *settings: str) -> RunConfig:
    machines = ("cluster=slurm", "cluster.nodes=2", "cluster.device=cpu", "parallel.dp=2")
    return compose(["experiment=tiny", f"run_dir={tmp_path / 'law'}", *machines, *settings])


def test_the_folder_is_written_before_the_job_is_queued(tmp_path: Path, commands: Path) -> None:
    add_sbatch(commands, 'echo "$@" > "$2".submitted', "echo '4711;other'")
    config = run(tmp_path)
    launched = launch(config, python=PYTHON)
    script = tmp_path / "law" / "train.sbatch"
    assert (launched.job, launched.script) == ("4711", script)
    assert launched.name == job_name(config.run_dir)
    assert Path(f"{script}.submitted").read_text() == f"--parsable {script}\n"
    assert script.read_text() == dry_run(config, python=PYTHON)
    assert (tmp_path / "law" / "logs").is_dir()
    assert read_run_yaml(tmp_path / "law" / "run.yaml").cluster.nodes == 2


def test_nothing_is_written_where_a_rule_is_broken(tmp_path: Path, commands: Path) -> None:
    add_sbatch(commands, "echo 1")
    with pytest.raises(ConfigError, match="3 settings cannot be used") as caught:
        launch(
            run(tmp_path, "cluster.nodes=3", "cluster.slurm.time=soon", "optim.beta1=2"),
            python=PYTHON,
        )
    assert {v.path for v in caught.value.violations} == {
        *("cluster.nodes", "cluster.slurm.time", "optim.beta1")
    }
    assert not (tmp_path / "law").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert "#SBATCH --nodes=2\n" in dry_run(run(tmp_path), python=PYTHON)
    assert not (tmp_path / "law").exists()


def test_sbatchs_refusal_is_shown(tmp_path: Path, commands: Path) -> None:
    add_sbatch(commands, "echo 'sbatch: error: invalid partition: gpu' >&2", "exit 1")
    with pytest.raises(
        EnvironmentError_, match=r"^sbatch refused \S+: invalid partition: gpu; fix"
    ):
        launch(run(tmp_path), python=PYTHON)


@pytest.mark.usefixtures("commands")
def test_a_machine_without_slurm(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError_, match="sbatch is not on this machine; run megacpt launc"):
        launch(run(tmp_path), python=PYTHON)
    assert (tmp_path / "law" / "train.sbatch").exists()


def test_an_answer_that_does_not_come(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sbatch(commands, "exec /bin/sleep 60")
    monkeypatch.setattr("megacpt.cluster.launch.SUBMIT_S", 0.2)
    with pytest.raises(EnvironmentError_, match=r"sbatch has not answered for 0\.2 s"):
        launch(run(tmp_path), python=PYTHON)


ENVIRONMENT = '/usr/bin/env > "$2".env'


def environment_of(launched: Launched) -> dict[str, str]:
    text = Path(f"{launched.script}.env").read_text()
    return dict(line.partition("=")[::2] for line in text.splitlines())


@pytest.mark.parametrize(
    "foreign",
    [
        {"SLURM_JOB_ID": "9", "SLURM_MEM_PER_CPU": "4096"},
        {"SBATCH_TIMELIMIT": "1", "SBATCH_EXPORT": "NONE", "SRUN_CONTAINER": "/x"},
        {"RANK": "1", "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "3"},
    ],
)
def test_the_job_has_nothing_of_the_one_it_is_launched_in(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch, foreign: dict[str, str]
) -> None:
    add_sbatch(commands, ENVIRONMENT, "echo 7")
    for name, value in {**foreign, "SLURM_CONF": "/etc/slurm.conf", "HF_HOME": "/hf"}.items():
        monkeypatch.setenv(name, value)
    launched = launch(run(tmp_path), python=PYTHON)
    found = environment_of(launched)
    assert not found.keys() & foreign.keys()
    assert (found["SLURM_CONF"], found["HF_HOME"]) == ("/etc/slurm.conf", "/hf")
    assert launched.left_out
    assert launched.taken == ()


def test_the_users_sbatch_variables_become_settings_where_there_are_none(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sbatch(commands, ENVIRONMENT, "echo 7")
    for name in ("ACCOUNT", "PARTITION", "QOS"):
        monkeypatch.setenv(f"SBATCH_{name}", f"my{name.lower()}")
    config = run(tmp_path, "cluster.slurm.partition=gpu")
    launched = launch(config, python=PYTHON)
    assert set(launched.taken) == {*("cluster.slurm.account=myaccount", "cluster.slurm.qos=myqos")}
    script = launched.script.read_text()
    for option in ("account=myaccount", "partition=gpu", "qos=myqos"):
        assert f"#SBATCH --{option}\n" in script
    assert script == dry_run(config, python=PYTHON)
    assert not [name for name in environment_of(launched) if name.startswith("SBATCH_")]
    assert read_run_yaml(tmp_path / "law" / "run.yaml").cluster.slurm.account == "myaccount"
