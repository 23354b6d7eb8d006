# SPDX-License-Identifier: Apache-2.0
"""Started once a rank: runs are saved, resumed, measured and reread.

    python sharded_weights_worker.py WORK_DIR CASES_JSON

A case is a name and settings. With parallel.sharded_weights (ZeRO-3) it is run beside one with
whole weights, and each continues from the other's file. Rank 0 writes WORK_DIR/sharded-WORLD.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from tests.train.parity_worker import parity_config

STEPS_BEFORE, STEPS_AFTER = 3, 3


def main() -> None:
    work = Path(sys.argv[1])
    cases: dict[str, dict[str, Any]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster=cluster)
    found = {name: run_case(work / name, rank_runtime, changes) for name, changes in cases.items()}
    if ranks.rank == 0:
        (work / f"sharded-{ranks.world_size}.json").write_text(json.dumps(found))
    runtime.stop()


def run_case(
    folder: Path, rank_runtime: runtime.Runtime, changes: dict[str, Any]
) -> dict[str, Any]:
    """Curves of undisturbed and of resumed runs, and what a look at the tensors says."""
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel

    config = parity_config(folder.parent, changes)
    initialise_parallel(config.parallel, seed=config.seed)
    found: dict[str, Any] = {"undisturbed": save_halfway(folder, rank_runtime, config)}
    if config.parallel.sharded_weights:
        whole = parity_config(folder.parent, changes)
        whole.parallel.sharded_weights = False
        whole_folder = folder.with_name(f"{folder.name}-whole")
        found["whole"] = save_halfway(whole_folder, rank_runtime, whole)
        run = resumed(whole_folder, rank_runtime, config, same_layout=False)
        found["from-whole"] = steps(run, first=STEPS_BEFORE + 1, last=last_step())
        run = resumed(folder, rank_runtime, config)
        found |= look(run, whole, folder=folder)
    else:
        run = resumed(folder, rank_runtime, config)
    found["resumed"] = steps(run, first=STEPS_BEFORE + 1, last=last_step())
    parallel_state.destroy_model_parallel()
    return found


def save_halfway(
    folder: Path, rank_runtime: runtime.Runtime, config: RunConfig
) -> list[list[float]]:
    """The curve after the step that is saved."""
    from megacpt.checkpoint.state import barrier, save
    from megacpt.train.assembly import assemble

    run = assemble(config, runtime=rank_runtime)
    steps(run, first=1, last=STEPS_BEFORE)
    if rank_runtime.ranks.rank == 0:
        folder.mkdir()
    barrier()
    state = run.state
    save(folder, chunks=state.chunks, optimizer=state.optimizer, rng_state=runtime.rng_state())
    return steps(run, first=STEPS_BEFORE + 1, last=last_step())


def resumed(
    folder: Path, rank_runtime: runtime.Runtime, config: RunConfig, *, same_layout: bool = True
) -> Any:
    from megacpt.checkpoint.state import load
    from megacpt.train.assembly import assemble

    run = assemble(config, runtime=rank_runtime)
    load(
        folder,
        chunks=run.state.chunks,
        optimizer=run.state.optimizer,
        step=STEPS_BEFORE,
        same_layout=same_layout,
    )
    return run


def last_step() -> int:
    return STEPS_BEFORE + STEPS_AFTER


def steps(run: Any, *, first: int, last: int) -> list[list[float]]:
    """[loss, gradient norm] of each step."""
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.batches import read_batches
    from megacpt.train.step import forward_backward, gradient_norm, update

    device, curve = run.runtime.device, []
    optimizer, optim, schedule = run.state.optimizer, run.config.optim, run.config.schedule
    with read_batches(run.data, first_step=first, last_step=last, device=device) as batches:
        for step in range(first, last + 1):
            sums = forward_backward(run.state, batch=batches.take(step), device=device)
            norm, lr = gradient_norm(optimizer), learning_rate(step, optim=optim, schedule=schedule)
            update(optimizer, norm=norm, lr=lr, optim=optim)
            curve.append([sums.mean_loss, norm])
    return curve


def look(run: Any, whole: RunConfig, *, folder: Path) -> dict[str, Any]:
    """Held-out loss, generations and weights, beside those of whole weights from the same file."""
    import torch
    from megatron.core.utils import unwrap_model

    from megacpt.checkpoint.state import load_model
    from megacpt.model.chunks import build_chunks, wrap_for_forward

    chunks = build_chunks(
        whole,
        architecture=run.architecture,
        runtime=run.runtime,
        base_folder=Path(str(whole.model.path)),
    )
    chunks = wrap_for_forward(chunks, config=whole, device=run.runtime.device)
    load_model(folder, chunks=chunks)
    expected = dict(unwrap_model(chunks)[0].named_parameters())
    cut = dict(run.state.chunks[0].module.named_parameters())
    return {
        "measured": measured(run, run.state.chunks),
        "measured-whole": measured(run, chunks),
        "equal-weights": cut.keys() == expected.keys()
        and all(
            torch.equal(param.full_tensor().to(expected[name].dtype), expected[name])
            for name, param in cut.items()
        ),
        "part-held": sum(p.to_local().numel() for p in cut.values())
        / sum(p.numel() for p in cut.values()),
    }


def measured(run: Any, chunks: list[Any]) -> dict[str, Any]:
    from megacpt.evaluate.generate import generate
    from megacpt.evaluate.heldout import measure_all
    from megacpt.samples.heldout import HeldoutSet

    device, prefix = run.runtime.device, Path(run.config.run_dir).with_name("late")
    late = HeldoutSet.open(str(prefix), sequence_length=32, max_tokens=0, vocab_size=257)
    losses = measure_all(chunks, sets={"late": late}, micro_batch_size=1, device=device)
    texts = generate(
        chunks,
        prompts=["ab", "c"],
        tokenizer=run.tokenizer,
        max_new_tokens=3,
        sequence_length=32,
        device=device,
    )
    return {"loss": losses["late"]["loss"], "texts": [text["text"] for text in texts]}


if __name__ == "__main__":
    main()
