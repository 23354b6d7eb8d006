# SPDX-License-Identifier: Apache-2.0
"""What Slurm is asked: datatrove's scripts, read by an ``sbatch`` that only keeps them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.curate.distributed.submit import Submitted, logs_folder, submit
from megacpt.errors import ConfigError, DataError, EnvironmentError_
from tests.curate import steps

SBATCH = """#!/bin/bash
[ -e refuses ] && { echo "sbatch: error: invalid partition" >&2; exit 1; }
number=$(ls asked | wc -l)
cp "${!#}" asked/$number && echo "# $*" >> asked/$number
echo "Submitted batch job 7$number"
"""


@dataclass(frozen=True)
class Asked:
    script: str

    def options(self) -> dict[str, str]:
        rows = [row for row in self.script.splitlines() if row.startswith("#SBATCH --")]
        return dict(row.removeprefix("#SBATCH --").partition("=")[::2] for row in rows)

    def dependency(self) -> str | None:
        words = self.script.splitlines()[-1].split()
        found = [word for word in words if word.startswith("--dependency=")]
        return found[0].removeprefix("--dependency=") if found else None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("datatrove")
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "asked").mkdir()
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    steps.write_corpus(tmp_path, files=1, count=5)
    return tmp_path


def submitted(*more: str) -> list[Submitted]:
    config = steps.settings("slurm.partition=cpu", "slurm.tasks=1500", *more)
    assert config.slurm is not None
    return submit(config, jobs=config.slurm)


def stages(folder: Path) -> Iterator[Asked]:
    """Without the jobs that add up datatrove's counts."""
    for path in sorted((folder / "asked").iterdir(), key=lambda path: int(path.name)):
        if "merge_stats" not in path.read_text():
            yield Asked(path.read_text())


def test_each_stage_is_one_array_after_the_one_before(folder: Path) -> None:
    found = submitted("deduplicate.lines.words=3", "slurm.at_once=40")
    asked = list(stages(folder))
    arrays = [one.options()["array"] for one in asked]
    many, one = "0-1499%40", "0-0%40"
    assert arrays == [many, one, many, one, many, one]
    assert [s.job for s in found] == ["70", "72", "74", "76", "78", "710"]
    waits = [one.dependency() for one in asked]
    assert waits == [None, *(f"afterok:{s.job}" for s in found[:-1])]
    assert [s.stage for s in found] == [one.options()["job-name"] for one in asked]
    assert {s.tasks for s in found} == {1, 1500}
    assert not (folder / "out").exists()
    assert logs_folder(steps.settings()) == Path("out.slurm")


def test_what_a_job_is_given(folder: Path) -> None:
    submitted(
        "slurm.cpus_per_task=24",
        "slurm.mem_per_cpu_gb=3",
        "slurm.time=2:00:00",
        "slurm.qos=long",
        "slurm.extra=--account=law --exclusive",
        "slurm.setup=module load python",
    )
    for asked in stages(folder):
        options = asked.options()
        assert options["cpus-per-task"] == "24"
        assert options["mem-per-cpu"] == "3G"
        assert options["time"] == "2:00:00"
        assert options["qos"] == "long"
        assert options["account"] == "law"
        assert options["exclusive"] == ""
        assert options["kill-on-invalid-dep"] == "yes"
        assert "requeue" in options
        rows = [row.strip() for row in asked.script.splitlines()]
        assert "module load python" in rows
        assert f"export PATH={Path(sys.executable).parent}:$PATH" in rows
        assert any(row.startswith("srun --cpus-per-task=24 ") for row in rows)


def test_the_same_again_submits_all_again(folder: Path) -> None:
    first = submitted()
    assert [s.stage for s in submitted()] == [s.stage for s in first]
    assert len(list(stages(folder))) == 2 * len(first)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["output=out", "sources.law.files=law", "deduplicate.near=null"]
    assert main(["curate", *words, "slurm.partition=cpu", "slurm.tasks=4"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == [
        "Job 70         01-1-deduplicate-pieces               4 tasks",
        "Job 72         02-1-deduplicate-once                 1 tasks",
        "Job 74         03-1-deduplicate-pieces               4 tasks",
        "Job 76         04-all-output                         1 tasks",
        "Each begins when the one before has ended well; the last writes out.",
        "If one fails, submit the same again: what is finished stays.",
        "Logs: out.slurm/*/slurm_logs",
        "Next: squeue --me",
    ]


def test_a_single_step_by_its_verb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["law", "--output", "out", "near=null", "slurm.partition=cpu"]
    assert main(["deduplicate", *words]) == 0
    assert len(list(stages(folder))) == 4
    assert "the last writes out." in capsys.readouterr().out


def test_what_is_wrong_is_told_before_anything_is_queued(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"slurm.extra=-A law has '-A', which is no option"):
        submitted("slurm.extra=-A law")
    with pytest.raises(DataError, match=r"input gone.jsonl does not exist"):
        submitted("sources.law.files=gone.jsonl")
    with pytest.raises(ConfigError, match="standard input"):
        submitted("sources.law.files=-")
    with pytest.raises(ConfigError, match=r"slurm.tasks=0 is below 1"):
        submitted("slurm.tasks=0")
    with monkeypatch.context() as inside:
        inside.setenv("SLURM_JOB_ID", "12")
        with pytest.raises(EnvironmentError_, match=r"inside Slurm's job 12"):
            submitted()
    (folder / "out").mkdir()
    (folder / "out" / "old").touch()
    with pytest.raises(EnvironmentError_, match="nothing is written over"):
        submitted()
    assert list(stages(folder)) == []


def test_what_sbatch_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "refuses").touch()
    with pytest.raises(EnvironmentError_, match=r"sbatch has refused .* fix the section slurm"):
        submitted()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentError_, match="sbatch is not on this machine"):
        submitted()


def test_without_datatrove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps.write_corpus(tmp_path, files=1, count=5)
    monkeypatch.setitem(sys.modules, "datatrove.executor.slurm", None)
    with pytest.raises(EnvironmentError_, match=r"package datatrove: pip install 'megacpt\[curate"):
        submitted()
