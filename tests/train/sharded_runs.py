# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_zero3.py: runs are saved, resumed, measured and reread.

A case is a name and settings. With parallel.sharded_weights (ZeRO-3) it is run beside one with
whole weights, and each continues from the other's file. Rank 0 writes WORK_DIR/sharded-WORLD.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megacpt.config.sections import RunConfig
from megacpt.device import runtime
from tests.rank import rank_on_cpu
from tests.train.curves import parity_config
from tests.train.resharding import train

STEPS_BEFORE, STEPS_AFTER = 3, 3


def run_cases(work: Path, cases: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu() as started:
        found = {name: run_case(work / name, started, changes) for name, changes in cases.items()}
    if started.ranks.rank == 0:
        (work / f"sharded-{started.ranks.world_size}.json").write_text(json.dumps(found))


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
        found["from-whole"] = train(run, first=STEPS_BEFORE + 1, last=last_step())
        run = resumed(folder, rank_runtime, config)
        found |= look(run, whole, folder=folder)
    else:
        run = resumed(folder, rank_runtime, config)
    found["resumed"] = train(run, first=STEPS_BEFORE + 1, last=last_step())
    parallel_state.destroy_model_parallel()
    return found


def save_halfway(
    folder: Path, rank_runtime: runtime.Runtime, config: RunConfig
) -> list[list[float]]:
    """The curve after the step that is saved."""
    from megacpt.checkpoint.state import barrier, save
    from megacpt.train.assembly import assemble

    run = assemble(config, runtime=rank_runtime)
    train(run, first=1, last=STEPS_BEFORE)
    if rank_runtime.ranks.rank == 0:
        folder.mkdir()
    barrier()
    state = run.state
    save(folder, chunks=state.chunks, optimizer=state.optimizer, rng_state=runtime.rng_state())
    return train(run, first=STEPS_BEFORE + 1, last=last_step())


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
    chunks = wrap_for_forward(
        chunks, parallel=whole.parallel, precision=whole.precision, device=run.runtime.device
    )
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
