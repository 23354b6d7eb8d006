# SPDX-License-Identifier: Apache-2.0
"""launch/train.sbatch on a real Slurm with two nodes: the same losses as on this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SANDBOX = Path(__file__).with_name("slurm-sandbox.sh")
SBATCH = Path(__file__).parents[2] / "launch" / "train.sbatch"
SETTINGS = ["experiment=tiny", "schedule.steps=4", "cluster.device=cpu", "monitor.wandb=disabled"]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="slurm-wlm is not installed"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Environment variables with which sbatch and squeue reach a sandbox of two nodes."""
    folder = Path(tempfile.mkdtemp(prefix="slurm."))
    try:
        subprocess.run(
            [SANDBOX, "up", folder, "--nodes", "2", "--gpus", "8"], check=True, timeout=60
        )
        yield {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
    finally:
        subprocess.run([SANDBOX, "down", folder, "--purge"], check=True, timeout=60)


def losses(run_dir: Path) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records[1:]]


def wait_for_job(job: str, *, env: dict[str, str]) -> None:
    deadline = time.monotonic() + 180
    while subprocess.run(
        ["squeue", "-h", "-j", job], env=env, capture_output=True, text=True
    ).stdout.strip():
        assert time.monotonic() < deadline, f"job {job} did not end"
        time.sleep(0.5)


def test_two_nodes_train_the_same_curve(cluster: dict[str, str], tmp_path: Path) -> None:
    on_slurm, alone = tmp_path / "slurm", tmp_path / "alone"
    command = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    command += [f"--output={tmp_path}/job.log", str(SBATCH), f"run_dir={on_slurm}", *SETTINGS]
    submitted = subprocess.run(
        [*command, "parallel.dp=2"], env=cluster, check=True, capture_output=True, text=True
    )
    wait_for_job(submitted.stdout.strip(), env=cluster)
    log = (tmp_path / "job.log").read_text()
    assert (on_slurm / "metrics.jsonl").exists(), log
    subprocess.run(
        [sys.executable, "-m", "megacpt", "train", f"run_dir={alone}", *SETTINGS], check=True
    )
    np.testing.assert_allclose(losses(on_slurm), losses(alone), rtol=1e-5, err_msg=log)
