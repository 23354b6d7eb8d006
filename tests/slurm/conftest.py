# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of three nodes on this machine, for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.support import SANDBOX, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if shutil.which("slurmctld") is None:
        pytest.skip("slurm-wlm is not installed")
    folder = Path(tempfile.mkdtemp(prefix="slurm."))
    try:
        subprocess.run(
            [SANDBOX, "up", folder, "--nodes", "3", "--gpus", "8"], check=True, timeout=60
        )
        yield Cluster(
            folder=folder,
            env={
                **os.environ,
                "SLURM_CONF": str(folder / "slurm.conf"),
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "MEGACPT_SRUN_WAIT_S": "15",
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
    finally:
        subprocess.run([SANDBOX, "down", folder, "--purge"], check=True, timeout=60)
