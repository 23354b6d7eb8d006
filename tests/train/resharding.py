# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_reshard.py: save in each layout, then load all in each.

The cases map each world size to its layouts: name -> settings (see parity_config). All worlds run
at once; each saves, waits until the others have, and loads what they have saved: of each layout,
the ones that its ``from`` names. Rank 0 writes WORK_DIR/reshard-WORLD.json.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from megacpt.config.sections import Dtype
from megacpt.device import runtime
from tests.rank import rank_on_cpu
from tests.train.curves import parity_config

SAVED_AT, STEPS_AFTER = 3, 3
PATIENCE_S = 600.0


def save_and_load(work: Path, worlds: dict[str, dict[str, dict[str, Any]]]) -> None:
    everything = [name for cases in worlds.values() for name in cases]
    with rank_on_cpu(timeout_minutes=10) as started:
        ranks = started.ranks
        mine = worlds[str(ranks.world_size)]
        found = {name: save(work, started, name, case) for name, case in mine.items()}
        wait_for(work, everything)
        for name, case in mine.items():
            found[name] |= load_all(work, started, name, case)
    if ranks.rank == 0:
        (work / f"reshard-{ranks.world_size}.json").write_text(json.dumps(found))


def wait_for(work: Path, names: list[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not all((work / name / "saved").exists() for name in names):
        assert time.monotonic() < deadline, "another world has not saved"
        time.sleep(0.05)


def assembled(work: Path, rank_runtime: runtime.Runtime, case: dict[str, Any]) -> Any:
    from megacpt.device.groups import initialise_parallel
    from megacpt.train.assembly import assemble

    config = parity_config(work, {key: value for key, value in case.items() if key != "from"})
    # The worlds are at work at once, and a folder holds one run.
    config = replace(config, run_dir=f"{config.run_dir}-{rank_runtime.ranks.world_size}")
    initialise_parallel(config.parallel, seed=config.seed)
    return assemble(config, runtime=rank_runtime)


def save(
    work: Path, rank_runtime: runtime.Runtime, name: str, case: dict[str, Any]
) -> dict[str, Any]:
    """The layout's own curve after the step that is saved."""
    from megatron.core import parallel_state

    run = assembled(work, rank_runtime, case)
    train(run, first=1, last=SAVED_AT)
    write(run, work / name)
    curve = train(run, first=SAVED_AT + 1, last=SAVED_AT + STEPS_AFTER)
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()
    return {"own": curve}


def write(run: Any, folder: Path) -> None:
    from megacpt.checkpoint.state import barrier, save

    first = run.runtime.ranks.rank == 0
    if first:
        folder.mkdir()
    barrier()
    state, rng = run.state, runtime.rng_state()
    save(folder, chunks=state.chunks, optimizer=state.optimizer, rng_state=rng)
    barrier()
    if first:
        (folder / "saved").touch()


def load_all(
    work: Path, rank_runtime: runtime.Runtime, name: str, case: dict[str, Any]
) -> dict[str, Any]:
    """Name of the source -> the curve after it; in bf16: what was lost on the way. Of an adapter
    both, the latter as ``NAME again``."""
    from megatron.core import parallel_state

    from megacpt.checkpoint.state import load

    run = assembled(work, rank_runtime, case)
    found: dict[str, Any] = {}
    for source in case["from"]:
        if found:
            spoil(run)
        load(
            work / source,
            chunks=run.state.chunks,
            optimizer=run.state.optimizer,
            step=SAVED_AT,
            same_layout=False,
        )
        bf16, adapted = run.config.precision.dtype is Dtype.bf16, run.config.adapter is not None
        if bf16 or adapted:
            copy = work / f"{source}-as-{name}"
            write(run, copy)
            lost = differences(work / source, copy) if rank_runtime.ranks.rank == 0 else []
            found[f"{source} again" if adapted else source] = lost
        if not bf16:
            found[source] = train(run, first=SAVED_AT + 1, last=SAVED_AT + STEPS_AFTER)
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()
    return found


def spoil(run: Any) -> None:
    """Weights and state that no load would leave behind; the first load is into fresh ones."""
    import torch
    from torch.distributed.tensor import DTensor

    from megacpt.checkpoint.state import adam

    held = [param for chunk in run.state.chunks for param in chunk.parameters()]
    # A checkpoint does not hold what an adapter is laid over.
    tensors = [param for param in held if not hasattr(param, "of_base")]
    for member in adam.members(run.state.optimizer):
        for group in member.optimizer.param_groups:
            tensors += group["params"]
        for state in member.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    with torch.no_grad():
        for tensor in tensors:
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).fill_(0.3)


def differences(folder: Path, other: Path) -> list[str]:
    """Keys of tensors that one of both has alone, or with other bits.

    Rows that fill up the vocabulary for tensor parallelism are left out.
    """
    import torch

    ours, theirs = tensors_of(folder), tensors_of(other)
    shared = ours.keys() & theirs.keys()
    return sorted(
        {key for key in shared if not torch.equal(*both(ours[key], theirs[key]))}
        | (ours.keys() ^ theirs.keys())
    )


def both(ours: Any, theirs: Any) -> tuple[Any, Any]:
    rows = min(len(ours), len(theirs))
    return ours[:rows], theirs[:rows]


def tensors_of(folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, whole; read without a process group."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    metadata = reader.read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(found.size, dtype=found.properties.dtype)
        for key, found in metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def train(run: Any, *, first: int, last: int) -> list[list[float]]:
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
