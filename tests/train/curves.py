# SPDX-License-Identifier: Apache-2.0
"""On a rank of the tests of parity: train several cases of one world size in turn.

A case is a name and the settings in which it departs from ``parity_config``; with ``nudge_seed``
the initial weights, too, are each off by a random rounding of bf16. Rank 0 writes
WORK_DIR/curves-WORLD.json: name -> [[loss, gradient norm, loss of each source ...], ...].
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from megacpt.config.sections import RunConfig
from megacpt.device import runtime
from tests.rank import rank_on_cpu

STEPS = 20


def write_curves(work: Path, cases: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu() as started:
        curves = {name: train_case(work, started, changes) for name, changes in cases.items()}
    if started.ranks.rank == 0:
        (work / f"curves-{started.ranks.world_size}.json").write_text(json.dumps(curves))


def train_case(
    work: Path, rank_runtime: runtime.Runtime, changes: dict[str, Any]
) -> list[list[float]]:
    """STEPS steps of the product's own pieces of a step."""
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches
    from megacpt.train.step import forward_backward, gradient_norm, update

    settings = {name: value for name, value in changes.items() if name != "nudge_seed"}
    config, device = parity_config(work, settings), rank_runtime.device
    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=rank_runtime)
    if "nudge_seed" in changes:
        nudge(run.state.chunks, seed=changes["nudge_seed"])
    curve = []
    optimizer, optim = run.state.optimizer, config.optim
    with read_batches(run.data, first_step=1, last_step=STEPS, device=device) as batches:
        for step in range(1, STEPS + 1):
            sums = forward_backward(run.state, batch=batches.take(step), device=device)
            norm = gradient_norm(optimizer)
            lr = learning_rate(step, optim=optim, schedule=config.schedule)
            update(optimizer, norm=norm, lr=lr, optim=optim)
            of_sources = [x / max(n, 1) for x, n in zip(sums.loss_N, sums.tokens_N, strict=True)]
            curve.append([sums.mean_loss, norm, *of_sources])
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()
    return curve


def nudge(chunks: list[Any], *, seed: int) -> None:
    """Multiply every weight by 1 + 2**-9 times a normal variate."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in (param for chunk in chunks for param in chunk.parameters()):
            param.mul_(1 + 2**-9 * torch.randn(param.shape, generator=generator))


def parity_config(work: Path, changes: dict[str, Any]) -> RunConfig:
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
                "micro_batch_size": 2,
            },
            "precision": {"dtype": "fp32"},
            "optim": {"lr_peak": 3e-3},
            "schedule": {"steps": STEPS, "warmup_steps": 2},
        },
        changes,
    )
    config = OmegaConf.to_object(tree)
    assert isinstance(config, RunConfig)
    return config
