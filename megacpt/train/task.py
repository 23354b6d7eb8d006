# SPDX-License-Identifier: Apache-2.0
"""One task of srun: a rank of the run whose folder is given.

    srun --ntasks=16 python -m megacpt.train.task RUN_DIR

Its place comes from Slurm's variables, everything else from RUN_DIR/run.yaml. Rank 0 writes to the
log of the job, every other rank to RUN_DIR/logs/rank_N.log.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.device import variables
from megacpt.device.environment import RankInfo, rank_from_environment, slurm_start
from megacpt.errors import EndedOnRequest, EnvironmentError_, MegacptError
from megacpt.train.rank import leave_error, run_reported


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--mode", choices=["train", "evaluate"], default="train")
    arguments = parser.parse_args(argv)
    # Until the run itself listens, a request to stop must not kill a rank that still imports.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    ranks = rank_from_environment() or RankInfo()
    if ranks.rank > 0:
        _write_to(RunFolder(arguments.run_dir).log_of(ranks.rank))
    try:
        _prepare(arguments.run_dir, ranks=ranks)
    except MegacptError as error:
        folder = RunFolder(arguments.run_dir)
        leave_error(folder.error_of(ranks.rank), error=error, rank=ranks.rank)
        return error.exit_code
    # Slurm decides which job of a run is at work; where a node was cut off, the fence.
    mode = "take_over" if arguments.mode == "train" else arguments.mode
    code = run_reported(arguments.run_dir, ranks=ranks, mode=mode)
    # srun would kill the ranks that are not through yet. The batch script sees that steps are left.
    return 0 if code == EndedOnRequest.exit_code else code


def _prepare(run_dir: Path, *, ranks: RankInfo) -> None:
    config = read_run_yaml(run_dir / "run.yaml")
    if ranks.world_size != config.parallel.num_ranks:
        raise EnvironmentError_(
            f"srun has started {ranks.world_size} ranks, but the layout in {run_dir}/run.yaml has "
            f"{config.parallel.num_ranks} (tp * cp * pp * dp); launch the run again with another "
            "parallel.dp, or ask sbatch for other machines."
        )
    variables.apply(config)


def _write_to(log: Path) -> None:
    """Standard output and errors from here on, also those of native code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.stderr.write(f"== job.restart {slurm_start()} on {socket.gethostname()}\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A failed rank may have threads blocked in a collective; they must not keep it alive.
    os._exit(code)
