# SPDX-License-Identifier: Apache-2.0
"""Submit a curation to Slurm: a datatrove executor for each stage, each after the one before."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.curate.config import CurateConfig
from megacpt.curate.distributed.settings import JobsConfig
from megacpt.curate.distributed.stages import Stage, StagePart, stages
from megacpt.curate.packages import need
from megacpt.curate.pipeline import open_corpus, require_shareable, work_folder
from megacpt.device.environment import slurm_job
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.files import require_new


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    stage: str
    tasks: int
    job: str
    """Slurm's number."""


def submit(config: CurateConfig, *, jobs: JobsConfig) -> list[Submitted]:
    """The jobs, in order; each begins when the one before has ended well."""
    _require_login_node()
    require_new(Path(config.output))
    require_shareable(config)
    # What is wrong with the sources is told now, and not by the first job.
    open_corpus(config, spool=work_folder(config), has_history=False)
    of_a_task = replace(config, workers=config.workers or jobs.cpus_per_task)
    executors = list(_executors(of_a_task, jobs=jobs, folder=logs_folder(config)))
    try:
        executors[-1].launch_job()
    except FileNotFoundError as error:
        raise EnvironmentError_(
            "sbatch is not on this machine; submit on a login node, or set slurm=null to curate "
            "here."
        ) from error
    except subprocess.CalledProcessError as error:
        raise EnvironmentError_(
            f"sbatch has refused {error.cmd[-1]} (what it says is above); fix the section slurm, "
            "cancel what is queued of these jobs, and submit again."
        ) from error
    return [
        Submitted(stage=executor.job_name, tasks=executor.tasks, job=executor.job_id)
        for executor in executors
    ]


def logs_folder(config: CurateConfig) -> Path:
    """Of datatrove: scripts, logs and counts of the jobs."""
    output = Path(config.output)
    return output.with_name(f"{output.name}.slurm")


def _require_login_node() -> None:
    job = slurm_job().id
    if job is not None:
        raise EnvironmentError_(
            f"this shell is inside Slurm's job {job}, whose variables the jobs would inherit; "
            "submit from a login node."
        )


def _executors(config: CurateConfig, *, jobs: JobsConfig, folder: Path) -> Iterator[Any]:
    slurm, stats = (
        need(f"datatrove.{module}", who="jobs on Slurm need")
        for module in ("executor.slurm", "utils.stats")
    )
    # What it says of each job is said in fewer words by the command.
    importlib.import_module("loguru").logger.disable("datatrove")
    before = None
    for stage in stages(config, stats=stats.Stats):
        before = slurm.SlurmPipelineExecutor(
            pipeline=[stage],
            depends=before,
            logging_dir=str(folder.absolute() / stage.name),
            **_options(stage, jobs=jobs),
        )
        yield before


def _options(stage: Stage, *, jobs: JobsConfig) -> dict[str, Any]:
    return {
        "job_name": stage.name,
        "tasks": jobs.tasks if stage.part is StagePart.pieces else 1,
        "workers": jobs.at_once or -1,
        "time": jobs.time,
        "partition": jobs.partition,
        "cpus_per_task": jobs.cpus_per_task,
        "mem_per_cpu_gb": jobs.mem_per_cpu_gb,
        "qos": jobs.qos,
        # Where a job has failed, those behind it are not left in the queue for ever.
        "sbatch_args": {"kill-on-invalid-dep": "yes", **_extra(jobs.extra or "")},
        # srun takes no number of cores from its job since Slurm 22.05: a task would have one.
        "srun_args": {"cpus-per-task": jobs.cpus_per_task},
        "env_command": "\n".join([jobs.setup or "", _same_python()]),
        # Of several arrays the next stage would wait for the last alone (findings/).
        "max_array_size": -1,
        # A finished task is one whose pieces are there, also when others were removed since.
        "skip_completed": False,
    }


def _extra(text: str) -> dict[str, str]:
    words = shlex.split(text)
    wrong = [word for word in words if not word.startswith("--")]
    if wrong:
        raise ConfigError(
            f"slurm.extra={text} has {wrong[0]!r}, which is no option of sbatch in one word; "
            "write --account=law --exclusive."
        )
    pairs = (word.removeprefix("--").partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def _same_python() -> str:
    """datatrove's commands are those of the Python that submits."""
    return f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
