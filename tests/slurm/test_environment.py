# SPDX-License-Identifier: Apache-2.0
"""`megacpt launch`, and the script by hand, from inside a job: what they start is no part of it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.slurm.launched import SETTINGS
from tests.slurm.support import Cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SBATCH = Path(__file__).parents[2] / "launch" / "train.sbatch"
FOREIGN = {
    "SLURM_MEM_PER_GPU": "9",
    "SBATCH_TIMELIMIT": "nonsense",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_WAIT": "1",
    "SRUN_CONTAINER": "/nowhere",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "MEGACPT_CHAINED": "1",
}


def wait_for_last_step(run_dir: Path) -> None:
    path = run_dir / "logs" / "train.log"

    def log() -> str:
        return path.read_text() if path.exists() else ""

    wait_until(lambda: "Trained 4 steps." in log(), what="step 4", timeout_s=60, log=log)


def test_a_run_launched_inside_a_job_is_none_of_its_steps(cluster: Cluster, tmp_path: Path) -> None:
    run_dir, outer = tmp_path / "law", tmp_path / "outer.sh"
    partition = cluster.run("sinfo", "--noheader", "--format=%R").splitlines()[0]
    short = ("schedule.steps=4", "checkpoint.every_steps=4", f"cluster.slurm.partition={partition}")
    launch = [sys.executable, "-m", "megacpt", "launch", *SETTINGS, *short, f"run_dir={run_dir}"]
    exports = [f"export {name}={value}" for name, value in FOREIGN.items()]
    outer.write_text("\n".join(["#!/bin/bash", "env > env.txt", *exports, shlex.join(launch), ""]))
    words = ["--mem-per-cpu=100", "--cpus-per-task=2", f"--chdir={tmp_path}", "--output=outer.log"]
    cluster.wait_for(cluster.submit(*words, str(outer)))
    assert "SLURM_MEM_PER_CPU=100" in (tmp_path / "env.txt").read_text()
    said = (tmp_path / "outer.log").read_text()
    assert "is queued" in said, said
    assert "Not handed to the job: SLURM_* of job " in said
    wait_for_last_step(run_dir)


def test_the_script_by_hand_inside_a_job(cluster: Cluster, tmp_path: Path) -> None:
    """sbatch hands on what the job outside was given; srun refuses two of them."""
    run_dir, outer = tmp_path / "law", tmp_path / "outer.sh"
    settings = ("schedule.steps=4", "checkpoint.every_steps=4", f"run_dir={run_dir}")
    options = ("--ntasks-per-node=1", "--cpus-per-task=1", f"--output={tmp_path}/inner.log")
    submit = ["sbatch", *options, str(SBATCH), *SETTINGS, *settings]
    outer.write_text(
        "\n".join(["#!/bin/bash", "export RANK=3 SLURM_MEM_PER_GPU=9", shlex.join(submit), ""])
    )
    words = ["--mem-per-cpu=100", f"--output={tmp_path}/outer.log", str(outer)]
    cluster.wait_for(cluster.submit(*words))
    wait_for_last_step(run_dir)
