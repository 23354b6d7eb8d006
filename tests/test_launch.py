# SPDX-License-Identifier: Apache-2.0
"""The scripts of launch/ without a Slurm: which command they make of Slurm's variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
SBATCH = LAUNCH / "preprocess.sbatch"


def run(
    *words: str, script: Path = SBATCH, **variables: object
) -> subprocess.CompletedProcess[str]:
    own = {f"SLURM_{name}": str(value) for name, value in variables.items()}
    env = {"PATH": os.environ["PATH"], "PYTHON": "echo", "SLURM_CPUS_PER_TASK": "4", **own}
    return subprocess.run(["bash", str(script), *words], env=env, capture_output=True, text=True)


def array(task: int, *, first: int, last: int, step: int, count: int) -> dict[str, int]:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (task, first, last, step, count)
    return {f"ARRAY_TASK_{n}": v for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("first", "last", "step", "tasks"),
    [(0, 3, 1, [0, 1, 2, 3]), (8, 14, 2, [8, 10, 12, 14]), (1, 8, 3, [1, 4, 7]), (5, 5, 1, [5])],
)
def test_a_task_is_its_place_in_the_array(
    first: int, last: int, step: int, tasks: list[int]
) -> None:
    for place, task in enumerate(tasks):
        # As Slurm sets it: the last task that there is, not the end of the range.
        variables = array(task, first=first, last=tasks[-1], step=step, count=len(tasks))
        done = run("a b.jsonl", "--output", "x", **variables, RESTART_COUNT=2)
        said, command = done.stdout.splitlines()
        assert said.startswith(f"Task {place} of {len(tasks)} on ")
        assert said.endswith(", start 3")
        assert command == (
            f"-m megacpt tokenize --workers 4 --task {place}/{len(tasks)} a b.jsonl --output x"
        )


def test_a_list_with_gaps_is_refused() -> None:
    done = run("a.jsonl", **array(5, first=1, last=6, step=1, count=3))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: --array must be a range, as 0-31 or 8-14:2; a list leaves gaps.\n"


def test_a_job_that_is_no_array_is_one_command() -> None:
    done = run("--merge", "--output", "x")
    assert done.stdout == "-m megacpt tokenize --workers 4 --merge --output x\n"


def test_curate_is_a_task_or_the_last_job() -> None:
    words = ("c d.yaml", "form=jsonl")
    tasks = array(8, first=4, last=10, step=2, count=4)
    done = run(*words, script=LAUNCH / "curate.sbatch", **tasks)
    assert done.stdout.splitlines()[1] == (
        "-m megacpt curate --task 2/4 c d.yaml workers=4 form=jsonl"
    )
    done = run(*words, script=LAUNCH / "curate.sbatch")
    assert done.stdout == "-m megacpt curate c d.yaml workers=4 form=jsonl\n"
    gaps = array(5, first=1, last=6, step=1, count=3)
    assert run(*words, script=LAUNCH / "curate.sbatch", **gaps).returncode == 2


def test_evaluate_and_convert_are_one_command(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho srun "$@"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "echo", "SLURM_CPUS_PER_TASK": "4"}
    for name, command in {
        "evaluate": "srun --kill-on-bad-exit=1 --cpus-per-task=4 --cpu-bind=cores --export=ALL "
        "echo -m megacpt evaluate runs/a b\n",
        "convert": "-m megacpt export runs/a b\n",
    }.items():
        script = SBATCH.with_name(f"{name}.sbatch")
        words = ["bash", str(script), "runs/a b"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == command
