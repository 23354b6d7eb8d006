# SPDX-License-Identifier: Apache-2.0
"""launch/train.sbatch by hand, on two nodes of a real Slurm: the losses of this machine alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.slurm.support import Cluster

SBATCH = Path(__file__).parents[2] / "launch" / "train.sbatch"
SETTINGS = ["experiment=tiny", "schedule.steps=4", "cluster.device=cpu", "monitor.wandb=disabled"]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def losses(run_dir: Path) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records[1:]]


def test_two_nodes_train_the_same_curve(cluster: Cluster, tmp_path: Path) -> None:
    on_slurm, alone = tmp_path / "slurm", tmp_path / "alone"
    command = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    command += [f"--output={tmp_path}/job.log", str(SBATCH), f"run_dir={on_slurm}", *SETTINGS]
    cluster.wait_for(cluster.submit(*command, "parallel.dp=2"))
    logs = [tmp_path / "job.log", on_slurm / "logs" / "train.log"]
    log = "".join(path.read_text() for path in logs if path.exists())
    assert "Trained 4 steps." in log, log
    subprocess.run(
        [sys.executable, "-m", "megacpt", "train", f"run_dir={alone}", *SETTINGS], check=True
    )
    np.testing.assert_allclose(losses(on_slurm), losses(alone), rtol=1e-5, err_msg=log)
