# SPDX-License-Identifier: Apache-2.0
"""Save and load model, optimizer and generators through megatron-core distributed checkpointing.

The optimizer is written ``fully_reshardable``, so that any other layout can load it. A key too many
or too few is an error, never a silent random weight (but for megacpt.checkpoint.layer_states).
"""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.utils import unwrap_model

from megacpt.checkpoint import adam, cut, layer_states
from megacpt.device.environment import die_with_parent
from megacpt.errors import CheckpointError


def save(folder: Path, *, chunks: list[Any], optimizer: Any, rng_state: dict[str, Any]) -> None:
    """Write every rank's share into ``folder`` (which exists and is empty); a collective call."""
    _bind_result_queue()
    state = _model_state(chunks)
    state["optimizer"] = _optimizer_state(chunks, optimizer, model=state)
    state["rng"] = _rng_object(rng_state)
    dist_checkpointing.save(state, str(folder), validate_access_integrity=True)


def load(
    folder: Path, *, chunks: list[Any], optimizer: Any, step: int, same_layout: bool
) -> dict[str, Any] | None:
    """Fill model and optimizer in place; the generators' state, if the layout is the same."""
    adam.allocate_state(optimizer)
    adam.pass_step_through(optimizer)
    state = _model_state(chunks)
    state["optimizer"] = _optimizer_state(chunks, optimizer, model=state, is_loading=True)
    if same_layout:
        state["rng"] = _rng_object({})
    loaded = _load_strictly(state, folder, weights_only=not same_layout)
    if cut.is_cut(chunks):
        _fill_cut(chunks, optimizer, loaded, step=step)
    else:
        _fill_model(chunks, loaded)
        optimizer.load_state_dict(loaded["optimizer"])
        adam.own_step(optimizer, step=step)
    rng: dict[str, Any] | None = loaded.get("rng")
    return rng


def _bind_result_queue() -> None:
    """End megatron-core's queue process with this rank, however the rank ends.

    Its writers report through a manager process that a killed rank would leave behind for ever.
    """
    if filesystem_async._results_queue is None:
        manager = SyncManager(ctx=get_context("spawn"))
        manager.start(initializer=die_with_parent)
        filesystem_async._results_queue = manager.Queue()


def load_model(folder: Path, *, chunks: list[Any]) -> None:
    """Fill only the weights, in any layout; the optimizer and generators stay on disk."""
    _fill_model(chunks, _load_strictly(_model_state(chunks), folder, weights_only=True))


def _load_strictly(state: dict[str, Any], folder: Path, *, weights_only: bool) -> dict[str, Any]:
    """All that ``state`` asks for; with ``weights_only`` the checkpoint may hold more."""
    strict = "return_unexpected" if weights_only else "return_all"
    try:
        loaded, missing, unexpected = dist_checkpointing.load(state, str(folder), strict=strict)
        if wrong := layer_states.others(missing | unexpected):
            raise CheckpointingException(f"of these, one side has none: {', '.join(wrong)}")
    except CheckpointingException as error:
        raise CheckpointError(
            f"{folder} does not hold what this run needs: {error}; "
            "use the model and configuration that wrote it, or a new run_dir."
        ) from error
    return dict(loaded)


def _model_state(chunks: list[Any]) -> dict[str, Any]:
    """One entry a virtual stage; keys inside are global names, so any layout can read them."""
    if cut.is_cut(chunks):
        return {_chunk_key(n): cut.model_entries(chunk) for n, chunk in enumerate(chunks)}
    metadata = _metadata()
    models = unwrap_model(chunks)
    return {_chunk_key(n): m.sharded_state_dict(metadata=metadata) for n, m in enumerate(models)}


def _chunk_key(index: int) -> str:
    return f"model{index}"


def _fill_model(chunks: list[Any], loaded: dict[str, Any]) -> None:
    if cut.is_cut(chunks):
        for n, chunk in enumerate(chunks):
            cut.fill_model(chunk, loaded[_chunk_key(n)])
        return
    for n, model in enumerate(unwrap_model(chunks)):
        layer_states.fill(model, loaded[_chunk_key(n)])


def _optimizer_state(
    chunks: list[Any], optimizer: Any, *, model: dict[str, Any], is_loading: bool = False
) -> Any:
    if cut.is_cut(chunks):
        return {
            _chunk_key(n): cut.optimizer_entries(chunk, optimizer) for n, chunk in enumerate(chunks)
        }
    return optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=_metadata())


def _fill_cut(chunks: list[Any], optimizer: Any, loaded: dict[str, Any], *, step: int) -> None:
    for n, chunk in enumerate(chunks):
        cut.fill_model(chunk, loaded[_chunk_key(n)], masters_follow=True)
        cut.fill_optimizer(chunk, optimizer, loaded["optimizer"][_chunk_key(n)])
    adam.set_step(optimizer, step=step)


def _metadata() -> dict[str, Any]:
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "distrib_optim_fully_reshardable_mem_efficient": False,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
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
