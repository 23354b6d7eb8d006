# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_warm_start.py: train runs one after the other.

Each run is a name, which is its folder in WORK_DIR, and its settings (see parity_config). A name
with ``again`` behind it goes on in the folder of the name before it.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from megacpt.cluster.prepare import prepare
from megacpt.device import runtime
from tests.rank import rank_on_cpu
from tests.train.curves import parity_config


def train_all(work: Path, runs: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu() as started:
        for name, settings in runs.items():
            train(work, started, name.removesuffix(" again"), settings)


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
