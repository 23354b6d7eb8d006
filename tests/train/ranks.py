# SPDX-License-Identifier: Apache-2.0
"""Start the ranks of a worker script and wait until all of them have ended well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import free_port


def start_ranks(
    worker: Path, work: Path, *, world: int, cases: dict[str, Any], timeout_s: float = 600.0
) -> None:
    """Each rank gets ``WORK_DIR CASES_JSON`` and the environment torchrun would give it."""
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(work), json.dumps(cases)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    codes = [rank.wait(timeout=timeout_s) for rank in ranks]
    assert codes == [0] * world
