# SPDX-License-Identifier: Apache-2.0
"""Started once a rank by test_train_moe.py: resumes and exports a run of a model with experts.

    python moe_worker.py WORK_DIR CASES_JSON

Each case is a name and its settings (see parity_config). ``from`` names the case whose checkpoint
it goes on from, after SAVED_AT steps; a case without trains STEPS steps and saves there. Rank 0
writes WORK_DIR/NAME.json: the loss and gradient norm of each step. ``export``: the folder the model
is then exported to, with a certificate.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from tests.train.parity_worker import parity_config

STEPS, SAVED_AT = 6, 3


def main() -> None:
    work = Path(sys.argv[1])
    cases: dict[str, dict[str, Any]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster=cluster)
    for name, case in cases.items():
        curve = run_case(work, rank_runtime, name, dict(case))
        if ranks.rank == 0:
            (work / f"{name}.json").write_text(json.dumps(curve))
    runtime.stop()


def run_case(
    work: Path, rank_runtime: runtime.Runtime, name: str, case: dict[str, Any]
) -> list[list[float]]:
    from megatron.core import parallel_state

    from megacpt.checkpoint.state import barrier
    from megacpt.device.groups import initialise_parallel
    from megacpt.train.assembly import assemble

    source, export = case.pop("from", None), case.pop("export", None)
    run_dir = work / f"run-{name}"
    if source is not None and rank_runtime.ranks.rank == 0:
        shutil.copytree(work / f"run-{source}", run_dir)
    barrier()
    config = parity_config(work, case | {"run_dir": str(run_dir)})
    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=rank_runtime)
    curve = train(run, is_first=source is None)
    if export is not None:
        export_folder(run, output=work / export)
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()
    return curve


def train(run: Any, *, is_first: bool) -> list[list[float]]:
    """To the last step; the first run saves at SAVED_AT on the way."""
    from megacpt.checkpoint.retention import Retention
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.batches import read_batches
    from megacpt.train.position import resume
    from megacpt.train.saves import Saves
    from megacpt.train.step import forward_backward, gradient_norm, update

    position = resume(run.run_dir, state=run.state, identity=run.identity, origin=run.origin)
    assert position.step == (0 if is_first else SAVED_AT)
    device, curve = run.runtime.device, []
    first_step = position.step + 1
    optimizer, optim, schedule = run.state.optimizer, run.config.optim, run.config.schedule
    with read_batches(run.data, first_step=first_step, last_step=STEPS, device=device) as batches:
        for step in range(first_step, STEPS + 1):
            sums = forward_backward(run.state, batch=batches.take(step), device=device)
            norm, lr = gradient_norm(optimizer), learning_rate(step, optim=optim, schedule=schedule)
            update(optimizer, norm=norm, lr=lr, optim=optim)
            curve.append([sums.mean_loss, norm])
            position.step = step
            position.faults.updates += 1
            if is_first and step == SAVED_AT:
                saves = Saves(
                    run.state,
                    folder=run.run_dir / "checkpoints",
                    identity=run.identity,
                    retention=Retention(keep_last=1),
                    on_error=run.config.checkpoint.on_error,
                )
                saves.begin(position, start=run.origin.start, must=True)
                saves.finish(position, must=True)
    return curve


def export_folder(run: Any, *, output: Path) -> None:
    from megatron.core.utils import unwrap_model

    from megacpt.convert.certificate import write_certificate
    from megacpt.convert.export import export_hf

    chunks = unwrap_model(run.state.chunks)
    export_hf(
        chunks,
        architecture=run.architecture,
        source_folder=Path(run.config.model.path),
        output=output,
        dtype=run.config.precision.dtype,
        certify=lambda folder: write_certificate(
            chunks, architecture=run.architecture, folder=folder, tokenizer=run.tokenizer
        ),
    )


if __name__ == "__main__":
    main()
