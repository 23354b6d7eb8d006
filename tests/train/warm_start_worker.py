# SPDX-License-Identifier: Apache-2.0
"""Started once a rank by test_train_warm_start.py: trains runs one after the other.

    python warm_start_worker.py WORK_DIR RUNS_JSON

Each run is a name, which is its folder in WORK_DIR, and its settings (see parity_config). A name
with ``again`` behind it goes on in the folder of the name before it.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from megacpt.cluster.prepare import prepare
from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from tests.train.parity_worker import parity_config


def main() -> None:
    work = Path(sys.argv[1])
    runs: dict[str, dict[str, Any]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster=cluster)
    for name, settings in runs.items():
        train(work, rank_runtime, name.removesuffix(" again"), settings)
    runtime.stop()


def train(work: Path, rank_runtime: runtime.Runtime, name: str, settings: dict[str, Any]) -> None:
    from megatron.core import parallel_state

    from megacpt.checkpoint import state
    from megacpt.train import assembly
    from megacpt.train.guard.watchdog import Stacks, Watchdog

    folder = work / name
    config = parity_config(work, settings)
    config.run_dir = str(folder)
    config.monitor.wandb = type(config.monitor.wandb).disabled
    if rank_runtime.ranks.rank == 0:
        prepare(config)
    state.barrier()
    stacks = Stacks(folder / f"stacks-{rank_runtime.ranks.rank}.txt")
    watchdog = Watchdog(hang_s=120, stacks=stacks, leave=lambda sign: None)
    assembly.train(config, runtime=rank_runtime, watchdog=watchdog)
    stacks.close()
    gc.collect()
    parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    main()
