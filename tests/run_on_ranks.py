# SPDX-License-Identifier: Apache-2.0
"""Call a function of the tests in processes of its own, one a rank, and wait until all end well.

    python -m tests.run_on_ranks MODULE:FUNCTION WORK_DIR CASES_JSON

is what each rank runs: FUNCTION(work, cases). It starts megatron-core's runtime itself, so its
module must not import megatron.core at the top.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from megacpt.device.environment import die_with_parent
from tests.forked import PYTHON
from tests.support import free_port


def run_on_ranks(
    target: str, work: Path, *, world: int, cases: Any, timeout_s: float = 600.0
) -> None:
    """``target`` is MODULE:FUNCTION; ranks share this machine, as torchrun would start them."""
    command, port = rank_command(target, work, cases=cases), free_port()
    variables = [rank_variables(rank, world=world, port=port) for rank in range(world)]
    ranks = [start_rank(command, variables=each) for each in variables]
    wait_for_ranks(ranks, timeout_s=timeout_s)


def rank_command(target: str, work: Path, *, cases: Any, python: str = PYTHON) -> list[str]:
    return [python, "-m", "tests.run_on_ranks", target, str(work), json.dumps(cases)]


def rank_variables(rank: int, *, world: int, port: int) -> dict[str, str]:
    """The environment torchrun gives a rank."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def start_rank(
    command: Sequence[str], *, variables: dict[str, str], **options: Any
) -> subprocess.Popen[str]:
    """Lead a process group with it, by which all that it starts can be killed too."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.Popen(command, env=environment, process_group=0, text=True, **options)


def wait_for_ranks(ranks: Sequence[subprocess.Popen[str]], *, timeout_s: float) -> None:
    """Kill all of them when one has failed or the time is up; none outlives this call."""
    stop_at = time.monotonic() + timeout_s
    try:
        while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
            assert time.monotonic() < stop_at, f"ranks still run after {timeout_s:.0f} s"
            time.sleep(0.02)
        assert codes == [0] * len(ranks), f"exit codes of the ranks: {codes}"
    finally:
        for rank in ranks:
            if rank.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)
                rank.wait()


def main(target: str, work: str, cases: str) -> None:
    die_with_parent()
    if "MEGACPT_COVERAGE_FOLDER" in os.environ:
        atexit.register(importlib.import_module("tests.branch_coverage").write_measured)
    module, _, function = target.partition(":")
    getattr(importlib.import_module(module), function)(Path(work), json.loads(cases))


if __name__ == "__main__":
    main(*sys.argv[1:])
