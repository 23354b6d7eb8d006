# SPDX-License-Identifier: Apache-2.0
"""Started once a rank: a run with cut weights (ZeRO-3) is saved, resumed, measured and reread.

    python sharded_weights_worker.py WORK_DIR CASES_JSON

Rank 0 writes WORK_DIR/sharded.json, whose entries test_train_sharded_weights.py looks at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parity_worker import parity_config

from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment

STEPS_BEFORE, STEPS_AFTER = 3, 3


def main() -> None:
    work = Path(sys.argv[1])
    cases: dict[str, dict[str, Any]] = json.loads(sys.argv[2])
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster)
    found = {name: run_case(work, rank_runtime, name, changes) for name, changes in cases.items()}
    if ranks.rank == 0:
        (work / "sharded.json").write_text(json.dumps(found))
    runtime.stop()


def run_case(
    work: Path, rank_runtime: runtime.Runtime, name: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """Losses of an undisturbed run and of its resumed copies; checks that need tensors."""
    from megatron.core import parallel_state

    from megacpt.checkpoint import sharded
    from megacpt.model.parallel import initialise_parallel
    from megacpt.train.run import assemble

    cut = parity_config(work, changes)
    whole = parity_config(work, changes)
    whole.parallel.sharded_weights = False
    folders = {kind: work / f"{name}-{kind}" for kind in ("cut", "whole")}
    initialise_parallel(cut.parallel, seed=cut.seed)
    found: dict[str, Any] = {}
    for kind, config in (("cut", cut), ("whole", whole)):
        run = assemble(config, runtime=rank_runtime)
        steps(run, first=1, last=STEPS_BEFORE)
        if rank_runtime.ranks.rank == 0:
            folders[kind].mkdir()
        sharded.barrier()
        sharded.save(
            folders[kind],
            chunks=run.state.chunks,
            optimizer=run.state.optimizer,
            rng_state=runtime.rng_state(),
        )
        found[f"{kind}-undisturbed"] = steps(run, first=STEPS_BEFORE + 1, last=last_step())
    for kind in ("cut", "whole"):
        run = assemble(cut, runtime=rank_runtime)
        sharded.load(
            folders[kind],
            chunks=run.state.chunks,
            optimizer=run.state.optimizer,
            step=STEPS_BEFORE,
            same_layout=kind == "cut",
        )
        if kind == "cut":
            found |= look(run, rank_runtime, whole, folder=folders[kind])
        found[f"from-{kind}"] = steps(run, first=STEPS_BEFORE + 1, last=last_step())
    parallel_state.destroy_model_parallel()
    return found


def last_step() -> int:
    return STEPS_BEFORE + STEPS_AFTER


def steps(run: Any, *, first: int, last: int) -> list[list[float]]:
    """[loss, gradient norm] of each step."""
    from megacpt.train.batches import read_batches
    from megacpt.train.step import train_step

    device, curve = run.runtime.device, []
    with read_batches(run.data, config=run.config, first_step=first, device=device) as batches:
        for step in range(first, last + 1):
            result = train_step(
                run.state, config=run.config, batches=batches, step=step, device=device
            )
            curve.append([result.sums.mean_loss, result.grad_norm])
    return curve


def look(run: Any, rank_runtime: runtime.Runtime, whole: Any, *, folder: Path) -> dict[str, Any]:
    """Held-out loss, generations and weights, beside those of whole weights from the same file."""
    import torch

    from megacpt.checkpoint import sharded
    from megacpt.data.heldout import HeldoutSet
    from megacpt.train.generate import generate
    from megacpt.train.heldout import measure_all
    from megacpt.train.state import build_chunks, wrap_for_forward

    chunks = build_chunks(
        whole,
        architecture=run.architecture,
        runtime=rank_runtime,
        base_folder=Path(str(whole.model.path)),
    )
    chunks = wrap_for_forward(chunks, config=whole, device=rank_runtime.device)
    sharded.load_model(folder, chunks=chunks)
    heldout = HeldoutSet.open(
        str(folder.parent / "late"), sequence_length=32, max_tokens=0, vocab_size=257
    )
    found: dict[str, Any] = {}
    for kind, models in (("cut", run.state.chunks), ("whole", chunks)):
        losses = measure_all(
            models, {"late": heldout}, micro_batch_size=1, device=rank_runtime.device
        )
        found[f"heldout-{kind}"] = losses["late"].loss
        texts = generate(
            models,
            ["ab", "c"],
            tokenizer=run.tokenizer,
            max_new_tokens=3,
            sequence_length=32,
            device=rank_runtime.device,
        )
        found[f"texts-{kind}"] = [text["text"] for text in texts]
    cut_model, whole_model = run.state.chunks[0].module, sharded.unwrap_model(chunks)[0]
    expected = dict(whole_model.named_parameters())
    found["equal-weights"] = all(
        torch.equal(param.full_tensor().to(expected[name].dtype), expected[name])
        for name, param in cut_model.named_parameters()
    )
    found["rows"] = [p.to_local().shape[0] for p in cut_model.parameters()][:1]
    return found


if __name__ == "__main__":
    main()
