# SPDX-License-Identifier: Apache-2.0
"""``megacpt launch``: check a run, write its folder and batch script, and submit it to Slurm."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.cluster import slurm
from megacpt.cluster.prepare import check, prepare
from megacpt.config.paths import RunFolder
from megacpt.config.sections import RunConfig
from megacpt.device.inherited import for_a_job, sbatch_options
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
    taken: tuple[str, ...]
    """Settings that the user's SBATCH_* variables have made."""
    left_out: tuple[str, ...]
    """Variables, in words, that the job is not given."""


def launch(config: RunConfig, *, python: str) -> Launched:
    """Everything that can be known is checked before anything is queued."""
    folder = RunFolder(Path(config.run_dir))
    options = _left_open(config)
    config = _with_options(config, options=options)
    script = slurm.render(config, python=python)
    plan = prepare(config, launched=True)
    # Slurm makes no folder for the output it is told to write.
    folder.logs.mkdir(exist_ok=True)
    write_text(folder.train_sbatch, text=script)
    handed = for_a_job()
    job = submit(folder.train_sbatch, variables=handed.variables)
    return Launched(
        plan=plan,
        script=folder.train_sbatch,
        job=job,
        name=slurm.job_name(config.run_dir),
        taken=tuple(f"cluster.slurm.{name}={value}" for name, value in options.items()),
        left_out=handed.left_out,
    )


def dry_run(config: RunConfig, *, python: str) -> str:
    """The script, after all checks; nothing is written."""
    config = _with_options(config, options=_left_open(config))
    script = slurm.render(config, python=python)
    check(config, launched=True)
    return script


def _left_open(config: RunConfig) -> dict[str, str]:
    """The user's SBATCH_* for what the settings do not say: over the script's own lines they would
    go unseen, so they are made settings."""
    slurm_config = config.cluster.slurm
    return {n: v for n, v in sbatch_options().items() if getattr(slurm_config, n) is None}


def _with_options(config: RunConfig, *, options: Mapping[str, Any]) -> RunConfig:
    cluster = replace(config.cluster, slurm=replace(config.cluster.slurm, **options))
    return replace(config, cluster=cluster)


def submit(script: Path, *, variables: Mapping[str, str]) -> str:
    """The number of the job, which begins with ``variables``."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            env=variables,
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
