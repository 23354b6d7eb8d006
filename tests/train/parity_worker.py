# SPDX-License-Identifier: Apache-2.0
"""Started once a rank by test_train_parity.py: trains several layouts of one world size in turn.

    python parity_worker.py WORK_DIR LAYOUTS_JSON

Rank 0 writes WORK_DIR/curves-WORLD.json: layout name -> [[loss, gradient norm], ...].
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment

STEPS = 10


def main() -> None:
    work = Path(sys.argv[1])
    layouts: dict[str, dict[str, object]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster)
    curves = {name: train_layout(work, name, rank_runtime, p) for name, p in layouts.items()}
    if ranks.rank == 0:
        (work / f"curves-{ranks.world_size}.json").write_text(json.dumps(curves))
    runtime.stop()


def train_layout(
    work: Path, name: str, rank_runtime: runtime.Runtime, parallel: dict[str, object]
) -> list[list[float]]:
    """Ten steps of the product's own train_step."""
    from megatron.core import parallel_state

    from megacpt.model.parallel import initialise_parallel
    from megacpt.train.run import assemble
    from megacpt.train.step import train_step

    config = parity_config(work, parallel)
    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=rank_runtime)
    curve = []
    for step in range(1, STEPS + 1):
        result = train_step(
            run.state, config=config, data=run.data, step=step, device=rank_runtime.device
        )
        curve.append([result.sums.mean_loss, result.grad_norm])
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()
    return curve


def parity_config(work: Path, parallel: dict[str, object]) -> RunConfig:
    """Every layout has the same global batch of eight samples; only the split differs."""
    from omegaconf import OmegaConf

    tree = OmegaConf.merge(
        OmegaConf.structured(RunConfig),
        {
            "run_dir": str(work / "run"),
            "model": {"path": str(work / "model"), "init": "random"},
            "data": {
                "sources": {
                    "domain": {"prefix": str(work / "domain"), "weight": 1.0},
                    "replay": {"prefix": str(work / "replay")},
                },
                "replay": {"source": "replay", "share": 0.25},
                "sequence_length": 32,
                "global_batch_size": 8,
                "micro_batch_size": 1,
            },
            "precision": {"dtype": "fp32"},
            "optim": {"lr_peak": 3e-3},
            "schedule": {"steps": STEPS, "warmup_steps": 2},
            "parallel": parallel,
        },
    )
    config = OmegaConf.to_object(tree)
    assert isinstance(config, RunConfig)
    return config


if __name__ == "__main__":
    main()
