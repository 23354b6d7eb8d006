# SPDX-License-Identifier: Apache-2.0
"""What a job or rank is not handed; the batch scripts unset the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megacpt.device import inherited

LAUNCH = Path(__file__).parents[2] / "launch"
USERS = {
    "PATH": "/bin", "HOME": "/home/me", "SLURM_CONF": "/etc/slurm.conf", "OMP_NUM_THREADS": "4",
    "NCCL_SOCKET_IFNAME": "ib0", "HF_HOME": "/hf", "WANDB_API_KEY": "k", "MASTER": "a word of mine",
    "RANKING": "1", "PYTHONPATH": "/src", "TMPDIR": "/scratch",
}  # fmt: skip


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (
            {"SLURM_JOB_ID": "9", "SLURM_MEM_PER_CPU": "4096", "SLURMD_NODENAME": "n1"},
            ("SLURM_* of job 9",),
        ),
        (
            {"SBATCH_TIMELIMIT": "1", "SRUN_CPUS_PER_TASK": "2", "SALLOC_PARTITION": "x"},
            ("SALLOC_PARTITION", "SBATCH_TIMELIMIT", "SRUN_CPUS_PER_TASK"),
        ),
        (
            {"RANK": "1", "MASTER_ADDR": "n1", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            ("MASTER_ADDR", "RANK", "TORCHELASTIC_USE_AGENT_STORE"),
        ),
        ({"PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, ("OMPI_COMM_WORLD_SIZE", "PMI_RANK")),
        (
            {"SLURM_JOB_ID": "9", "CUDA_VISIBLE_DEVICES": "3", "WANDB_SERVICE": "3-1-tcp"},
            ("SLURM_* of job 9", "CUDA_VISIBLE_DEVICES", "WANDB_SERVICE"),
        ),
        (
            {"MEGACPT_VARIABLES": "NCCL_ALGO", "NCCL_ALGO": "Ring", "MEGACPT_CHAINED": "1"},
            ("MEGACPT_CHAINED", "MEGACPT_VARIABLES", "NCCL_ALGO"),
        ),
        ({}, ()),
    ],
)
def test_a_job_gets_the_users_choices_alone(
    foreign: dict[str, str], words: tuple[str, ...]
) -> None:
    handed = inherited.for_a_job({**USERS, **foreign})
    assert handed.variables == USERS
    assert handed.left_out == words


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_the_scripts_unset_every_place_of_another(script: str) -> None:
    text = (LAUNCH / f"{script}.sbatch").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("unset ")]
    names = [*inherited.PLACE_NAMES, *(p + "X" for p in inherited.PLACE_PREFIXES)]
    limits = [f"SLURM_MEM_PER_{unit}" for unit in ("CPU", "GPU", "NODE")]
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, "compgen -e"])],
        env={**dict.fromkeys([*names, *limits, "NCCL_ALGO"], "1"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(done.stdout.split())
    assert {"PATH", "NCCL_ALGO"} <= found
    assert not found & {*names, *limits}


def test_a_rank_started_here_is_no_task_or_worker_of_the_job_around_it(tmp_path: Path) -> None:
    """In a process of its own: this one's environment is its own business."""
    foreign = {
        "GROUP_RANK": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "PMIX_RANK": "0",
        "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    kept = {"SLURM_JOB_ID": "9", "SLURM_JOB_END_TIME": "1700", "CUDA_VISIBLE_DEVICES": "1"}
    code = (
        "import sys, pathlib\n"
        "from megacpt.cluster.local import run_ranks\n"
        "from megacpt.config.paths import RunFolder\n"
        f"folder = RunFolder(pathlib.Path({str(tmp_path)!r}))\n"
        "sys.exit(run_ranks(['env'], num_ranks=1, folder=folder))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **foreign, **kept},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert not found.keys() & foreign.keys()
    assert found.items() >= kept.items()
    assert found["RANK"] == "0"
