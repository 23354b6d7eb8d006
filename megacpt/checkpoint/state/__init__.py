# SPDX-License-Identifier: Apache-2.0
"""Save and load model, optimizer and generators through megatron-core distributed checkpointing.

Every layout writes the same names and shapes and reads what any other has written (see
optimizer.py and zero3.py). A key too many or too few is an error, never a silent
random weight (but for layer_states.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.utils import unwrap_model

from megacpt.checkpoint.state import adam, layer_states, zero3
from megacpt.checkpoint.state.optimizer import PREFIX, fill_optimizer, optimizer_entries, tensors_of
from megacpt.checkpoint.writer.saver import save_now
from megacpt.errors import CheckpointError


def save(folder: Path, *, chunks: list[Any], optimizer: Any, rng_state: dict[str, Any]) -> None:
    """Write what every rank holds into ``folder`` (which exists and is empty); wait for it."""
    save_now(folder, state=entries(chunks, optimizer=optimizer, rng_state=rng_state))


def entries(chunks: list[Any], *, optimizer: Any, rng_state: dict[str, Any]) -> dict[str, Any]:
    """All that a checkpoint holds, as it lies on this rank; a collective call."""
    state = model_entries(chunks)
    state["optimizer"] = _optimizer_entries(chunks, optimizer=optimizer, model=state)
    state["rng"] = _rng_object(rng_state)
    return state


def load(
    folder: Path, *, chunks: list[Any], optimizer: Any, step: int, same_layout: bool
) -> dict[str, Any] | None:
    """Fill model and optimizer in place; the generators' state, if the layout is the same.

    ``step``: updates that the optimizer has made.
    """
    adam.allocate_state(optimizer)
    state = model_entries(chunks)
    state["optimizer"] = _optimizer_entries(chunks, optimizer=optimizer, model=state)
    # Before the load: it puts other views into the entries.
    tensors = tensors_of(state["optimizer"])
    if same_layout:
        state["rng"] = _rng_object({})
    loaded = _load_strictly(state, folder=folder, may_have_more=() if same_layout else ("rng",))
    _fill_model(chunks, loaded=loaded, masters_follow=True)
    fill_optimizer(tensors, loaded=loaded.get("optimizer", {}))
    adam.renew_copies(optimizer)
    adam.set_step(optimizer, step=step)
    rng: dict[str, Any] | None = loaded.get("rng")
    return rng


def load_model(folder: Path, *, chunks: list[Any]) -> None:
    """Fill only the weights, in any layout; the optimizer and generators stay on disk."""
    state = model_entries(chunks)
    loaded = _load_strictly(state, folder=folder, may_have_more=(PREFIX, "rng"))
    _fill_model(chunks, loaded=loaded, masters_follow=False)


def _load_strictly(
    state: dict[str, Any], *, folder: Path, may_have_more: tuple[str, ...]
) -> dict[str, Any]:
    """All that ``state`` asks for; the checkpoint's other keys begin with ``may_have_more``."""
    try:
        loaded, missing, unexpected = dist_checkpointing.load(
            state, str(folder), strict="return_all"
        )
        left = {key for key in missing if not key.startswith(may_have_more)}
        if wrong := layer_states.others(left | unexpected):
            raise CheckpointingException(f"of these, one side has none: {', '.join(wrong)}")
    except CheckpointingException as error:
        raise CheckpointError(
            f"{folder} does not hold what this run needs: {error}; "
            "use the model and configuration that wrote it, or a new run_dir."
        ) from error
    return dict(loaded)


def model_entries(chunks: list[Any]) -> dict[str, Any]:
    """One entry a virtual stage; keys inside are global names, so any layout can read them."""
    if zero3.is_sharded(chunks):
        return {_chunk_key(n): zero3.model_entries(chunk) for n, chunk in enumerate(chunks)}
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {
        _chunk_key(n): layer_states.trained(
            model.sharded_state_dict(metadata={"dp_cp_group": group})
        )
        for n, model in enumerate(unwrap_model(chunks))
    }


def _chunk_key(index: int) -> str:
    return f"model{index}"


def _fill_model(chunks: list[Any], *, loaded: dict[str, Any], masters_follow: bool) -> None:
    """``masters_follow``: the optimizer's state is filled next (see zero3.fill_model)."""
    if zero3.is_sharded(chunks):
        for n, chunk in enumerate(chunks):
            zero3.fill_model(chunk, loaded=loaded[_chunk_key(n)], masters_follow=masters_follow)
    else:
        for n, model in enumerate(unwrap_model(chunks)):
            layer_states.fill(model, loaded=loaded[_chunk_key(n)])


def _optimizer_entries(
    chunks: list[Any], *, optimizer: Any, model: dict[str, Any]
) -> dict[str, Any]:
    if not zero3.is_sharded(chunks):
        return optimizer_entries(optimizer, model=model)
    return {
        _chunk_key(n): zero3.optimizer_entries(chunk, optimizer=optimizer)
        for n, chunk in enumerate(chunks)
    }


def _rng_object(rng_state: dict[str, Any]) -> ShardedObject:
    """Generators differ between model-parallel ranks and agree between data-parallel ones."""
    return ShardedObject(
        "rng",
        rng_state,
        (
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_world_size(),
        ),
        (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
        ),
        replica_id=parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )


def barrier() -> None:
    """Wait for every rank; a checkpoint is published only when all have written."""
    torch.distributed.barrier()
