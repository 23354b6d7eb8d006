# SPDX-License-Identifier: Apache-2.0
"""What each rank writes of a checkpoint, and writing it, in megatron-core's torch_dist format.

megatron-core deals the entries out evenly over the data-parallel ranks that hold the same ones.
The plan is made anew only where the entries of some rank have changed. Its own writer is not used:
it copies every tensor that is a view before training may go on, and writes on one rank while the
others wait in a collective, so that a full disk would leave them there.
"""

from __future__ import annotations

import mmap
import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.exchange_utils import (
    determine_main_replica_uniform_distribution,
)
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    distribute_main_replicas_with_precomputed_distribution,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.validation import (
    determine_global_metadata,
    validate_sharding_integrity,
)
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.serialization import get_crc32_options, set_crc32_options

from megacpt.checkpoint.manifest import FileSum
from megacpt.checkpoint.verify import sums_of
from megacpt.checkpoint.writer.process import Background, Rest
from megacpt.checkpoint.writer.shared_memory import Place, plain
from megacpt.checkpoint.writer.small_writes import SmallWrites
from megacpt.files import sync

FORMAT = CheckpointingConfig("torch_dist", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What this rank writes: one file, and on the first rank what belongs to no rank alone."""

    rank: int
    items: list[tuple[Any, Any]]
    """torch's WriteItem, and its bytes, its tensor, or the place of a copy of that."""
    common: dict[str, Any] | None
    """What is the same on all ranks; None on all but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a rank has written and made durable."""

    results: list[WriteResult]
    files: dict[str, FileSum]


class Planner:
    """Deals the entries out; knows the last plan, for as long as no rank's entries change."""

    def __init__(self) -> None:
        self._structure: list[Any] = []
        self._distribution: Any = None
        self._plan = SavePlan([])
        self.metadata: Metadata | None = None
        """Of the whole checkpoint; on the first rank only."""

    def share(self, state: dict[str, Any]) -> Share:
        """This rank's share of ``state`` (megacpt.checkpoint.state), as it is now.

        A collective call. Nothing is copied.
        """
        rank = torch.distributed.get_rank()
        entries, common = save_preprocess(state, validate_access_integrity=False)
        structure = [_structure(entry) for entry in nested_values(entries)]
        is_new = _any_rank(structure != self._structure)
        self._structure = structure
        self._distribute(entries, anew=is_new)
        by_key, *_ = _replace_state_dict_keys_with_sharded_keys(entries, True)
        planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        planner.set_up_planner(mcore_to_pyt_state_dict(by_key, False), is_coordinator=rank == 0)
        if is_new:
            self._plan = planner.create_local_plan()
            self.metadata = _global_metadata(self._plan, planner=planner)
        items = [(item, planner.resolve_data(item)) for item in self._plan.items]
        return Share(rank=rank, items=items, common=common if rank == 0 else None)

    def _distribute(self, entries: Any, *, anew: bool) -> None:
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        if anew:
            self._distribution = determine_main_replica_uniform_distribution(entries, group)
        distribute_main_replicas_with_precomputed_distribution(entries, group, self._distribution)
        if anew:
            validate_sharding_integrity(determine_global_metadata(entries)[1])


def _structure(entry: ShardedBase) -> tuple[Any, ...]:
    """All that a plan depends on."""
    place = (entry.key, entry.global_shape, entry.global_offset, entry.replica_id)
    return (*place, entry.local_shape, entry.dtype) if isinstance(entry, ShardedTensor) else place


def _any_rank(wish: bool) -> bool:
    wishes = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(wishes, wish)
    return any(wishes)


def _global_metadata(plan: SavePlan, *, planner: MCoreSavePlanner) -> Metadata | None:
    is_first = torch.distributed.get_rank() == 0
    plans = [None] * torch.distributed.get_world_size() if is_first else None
    torch.distributed.gather_object(plan, plans)
    metadata: Metadata | None = planner.create_global_plan(plans)[1] if is_first else None
    return metadata


def tensors_of(share: Share) -> list[torch.Tensor]:
    return [data for item, data in share.items if not _is_bytes(item)]


def held(share: Share, *, by: Background[Any]) -> Share:
    """With copies of its tensors in the other process's memory, which arrive by ``settle``."""
    places = iter(by.hold(tensors_of(share)))
    items = [(item, data if _is_bytes(item) else next(places)) for item, data in share.items]
    return replace(share, items=items)


def _is_bytes(item: Any) -> bool:
    return bool(item.type == WriteItemType.BYTE_IO)


def write(share: Share, *, folder: Path, memory: mmap.mmap | None, rest: Rest) -> Written:
    """Write this rank's files, to the disk itself, and take their checksums.

    ``memory``: where copies lie. ``rest`` is called after each little piece.
    """
    results: list[WriteResult] = []
    files: dict[str, FileSum] = {}
    if share.items:
        name, writes = f"__{share.rank}_0.distcp", SmallWrites(rest=rest)
        results = _write_items(share.items, path=folder / name, writes=writes, memory=memory)
        files[name] = writes.sum
    if share.common is not None:
        with (folder / COMMON_STATE_FNAME).open("wb") as file:
            torch.save(share.common, file)
            file.flush()
            os.fsync(file.fileno())
        files |= sums_of(folder, names=[COMMON_STATE_FNAME])
    return Written(results=results, files=files)


def _write_items(
    items: list[tuple[Any, Any]], *, path: Path, writes: SmallWrites, memory: mmap.mmap | None
) -> list[WriteResult]:
    objects = [(item, data) for item, data in items if _is_bytes(item)]
    tensors = _in_host_memory([(i, d) for i, d in items if not _is_bytes(i)], memory=memory)
    results: queue.Queue[Any] = queue.Queue()
    count: queue.Queue[int] = queue.Queue()
    count.put(0)
    with _without_record_sums():
        FileSystemWriterAsync.write_preloaded_data(
            [writes],
            local_proc_idx=0,
            write_bucket=(str(path), path.name, (objects, tensors)),
            results_queue=results,
            count_queue=count,
            use_fsync=True,
        )
    _, outcome = results.get_nowait()
    if isinstance(outcome, Exception):
        raise outcome
    written: list[WriteResult] = outcome
    return written


@contextmanager
def _without_record_sums() -> Iterator[None]:
    """A CRC32 of each tensor, which nothing compares, costs as much as writing it."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _in_host_memory(
    items: list[tuple[Any, Any]], *, memory: mmap.mmap | None
) -> Iterator[tuple[Any, torch.Tensor]]:
    """One at a time, each in memory of its own: torch.save writes all that a view looks into."""
    for item, data in items:
        if isinstance(data, Place):
            assert memory is not None
            tensor = data.tensor(memory)
        else:
            tensor = plain(data).to("cpu")
        is_view = tensor.untyped_storage().size() != tensor.numel() * tensor.itemsize
        yield item, tensor.clone() if is_view else tensor


def complete(folder: Path, *, metadata: Metadata, written: Sequence[Written]) -> dict[str, FileSum]:
    """Once all ranks have written: the index of all entries; the sums of all files."""
    FileSystemWriter(folder).finish(metadata, [share.results for share in written])
    save_config(FORMAT, str(folder))
    files = sums_of(folder, names=[".metadata", "metadata.json"])
    for share in written:
        files |= share.files
    sync(folder)
    return dict(sorted(files.items()))
