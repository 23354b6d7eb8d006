# SPDX-License-Identifier: Apache-2.0
"""What a process has from the job it runs in, and must not hand on to one that it starts.

A shell inside a Slurm job, a notebook that torchrun has started, an mpirun: each says in variables
where its own processes stand. A run started from there would take them for its own. What is no
place but a choice of the user's (PATH, NCCL_*, OMP_NUM_THREADS, HF_HOME ...) is handed on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from megacpt.device.environment import slurm_job
from megacpt.device.variables import MARK

PLACE_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
)
"""A process's place among others, as torchrun says it."""
PLACE_PREFIXES = ("TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_COMM_", "MPI_LOCAL", "PALS_")
"""The same of torchrun's agent and of MPI's launchers."""
_TASK = re.compile("SLURM_(STEP_.*|STEPID|PROCID|LOCALID|NODEID|TASK_PID|GTIDS|LAUNCH_.*)")
"""A task's place in a step of srun."""
_OF_SLURM = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_")
"""Slurm's account of a job and, for its commands, options that go over those of a script."""
_SLURM_KEPT = "SLURM_CONF"
"""Which Slurm this is."""
_OTHER = re.compile(
    # Devices of the job outside; Slurm names those of the new one.
    "(CUDA|ROCR|HIP|NVIDIA)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
    # A process that is not there on other nodes; of the batch script, to its next job.
    "|WANDB_SERVICE|MEGACPT_CHAINED"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """The variables of a job that is submitted."""

    variables: Mapping[str, str]
    left_out: tuple[str, ...]
    """In words, one for each kind."""


def for_a_job(environment: Mapping[str, str] | None = None) -> Handed:
    """What sbatch is started with: it hands all of it to the job, and obeys some of it itself."""
    inherited = os.environ if environment is None else environment
    # Chosen for the layout of the run outside, not by a person.
    ours = {MARK, *inherited.get(MARK, "").split()}
    left = [
        n
        for n in inherited
        if _is_place(n) or n in ours or _OTHER.fullmatch(n)
        or (n.startswith(_OF_SLURM) and n != _SLURM_KEPT)
    ]  # fmt: skip
    kept = {name: value for name, value in inherited.items() if name not in left}
    return Handed(variables=kept, left_out=_in_words(left, inherited=inherited))


def _is_place(name: str) -> bool:
    return name in PLACE_NAMES or name.startswith(PLACE_PREFIXES)


def _in_words(names: list[str], *, inherited: Mapping[str, str]) -> tuple[str, ...]:
    """One word for all that a surrounding job has set, the names of the others."""
    job = slurm_job(inherited).id
    if job is None:
        return tuple(sorted(names))
    others = sorted(n for n in names if not n.startswith("SLURM"))
    return (f"SLURM_* of job {job}", *others)


def of_another_place() -> list[str]:
    """Names of the variables that ranks started here must not see: they would take the place of
    a task or worker outside for their own."""
    return sorted(name for name in os.environ if _is_place(name) or _TASK.fullmatch(name))


def sbatch_options() -> dict[str, str]:
    """What the user's SBATCH_* ask for, by the name of the option that has such a variable."""
    named = {"SBATCH_" + n.upper(): n for n in _SELECTING}
    return {named[n]: value for n, value in os.environ.items() if n in named and value}


_SELECTING = ("account", "partition", "qos", "reservation", "constraint")
"""Options that sites ask their users to set once, in the shell's profile."""
