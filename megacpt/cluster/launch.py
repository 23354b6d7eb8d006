# SPDX-License-Identifier: Apache-2.0
"""``megacpt launch``: check a run, write its folder and batch script, and submit it to Slurm."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from megacpt.cluster import slurm
from megacpt.cluster.prepare import check, prepare
from megacpt.config.paths import RunFolder
from megacpt.config.sections import RunConfig
from megacpt.errors import EnvironmentError_
from megacpt.files import write_text
from megacpt.plan.plan import Plan

SUBMIT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    plan: Plan
    script: Path
    job: str
    """Slurm's number."""
    name: str
    """Common to all jobs of the run."""


def launch(config: RunConfig, *, python: str) -> Launched:
    """Everything that can be known is checked before anything is queued."""
    folder = RunFolder(Path(config.run_dir))
    script = slurm.render(config, python=python)
    plan = prepare(config, launched=True)
    # Slurm makes no folder for the output it is told to write.
    folder.logs.mkdir(exist_ok=True)
    write_text(folder.train_sbatch, text=script)
    job = submit(folder.train_sbatch)
    return Launched(
        plan=plan, script=folder.train_sbatch, job=job, name=slurm.job_name(config.run_dir)
    )


def dry_run(config: RunConfig, *, python: str) -> str:
    """The script, after all checks; nothing is written."""
    script = slurm.render(config, python=python)
    check(config, launched=True)
    return script


def submit(script: Path) -> str:
    """The number of the job."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            timeout=SUBMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise EnvironmentError_(
            "sbatch is not on this machine; run megacpt launch on a login node, or "
            f"sbatch {script} there. The run folder and the script are written."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentError_(
            f"sbatch has not answered for {SUBMIT_S} s; try sbatch {script} later."
        ) from error
    if done.returncode != 0:
        words = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
        raise EnvironmentError_(
            f"sbatch refused {script}: {words}; fix cluster.slurm and launch again."
        )
    return done.stdout.strip().partition(";")[0]
