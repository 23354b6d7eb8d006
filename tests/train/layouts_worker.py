# SPDX-License-Identifier: Apache-2.0
"""Started once a rank by test_train_layouts.py: one training step in each of many layouts.

    python layouts_worker.py WORK_DIR LAYOUTS_JSON

LAYOUTS_JSON: name -> settings. Rank 0 writes WORK_DIR/steps-WORLD.json: name -> [loss, gradient
norm].
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from megacpt.config.sections import ClusterConfig, DeviceKind, ParallelConfig, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from tests.train.parity_worker import parity_config

Groups = tuple[int | None, ...]


def main() -> None:
    work = Path(sys.argv[1])
    cases: dict[str, dict[str, Any]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=5)
    rank_runtime = runtime.start(ranks, cluster=cluster)
    configs = {name: parity_config(work, changes) for name, changes in cases.items()}
    found = run_all(configs, rank_runtime=rank_runtime)
    if ranks.rank == 0:
        (work / f"steps-{ranks.world_size}.json").write_text(json.dumps(found))
    runtime.stop()


def run_all(
    configs: dict[str, RunConfig], *, rank_runtime: runtime.Runtime
) -> dict[str, tuple[float, float]]:
    """Layouts with the same process groups one after the other, because these take long to make."""
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel

    found: dict[str, tuple[float, float]] = {}
    made: Groups = ()
    for name, config in sorted(configs.items(), key=lambda item: str(groups(item[1].parallel))):
        if groups(config.parallel) != made:
            if made:
                parallel_state.destroy_model_parallel()
            initialise_parallel(config.parallel, seed=config.seed)
            made = groups(config.parallel)
        try:
            found[name] = take_a_step(config, rank_runtime=rank_runtime)
        except BaseException:
            sys.stderr.write(f"in the layout {name}\n")
            raise
        gc.collect()
    return found


def groups(parallel: ParallelConfig) -> Groups:
    sizes = (parallel.tp, parallel.cp, parallel.pp, parallel.vpp, parallel.dp)
    return (*sizes, parallel.ep, parallel.etp)


def take_a_step(config: RunConfig, *, rank_runtime: runtime.Runtime) -> tuple[float, float]:
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches
    from megacpt.train.step import forward_backward, gradient_norm, update

    run, device = assemble(config, runtime=rank_runtime), rank_runtime.device
    with read_batches(run.data, first_step=1, last_step=1, device=device) as batches:
        sums = forward_backward(run.state, batch=batches.take(1), device=device)
    norm, optim = gradient_norm(run.state.optimizer), config.optim
    lr = learning_rate(1, optim=optim, schedule=config.schedule)
    update(run.state.optimizer, norm=norm, lr=lr, optim=optim)
    return sums.mean_loss, norm


if __name__ == "__main__":
    main()
