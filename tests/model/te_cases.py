# SPDX-License-Identifier: Apache-2.0
"""Every case of tests/family_cases in Transformer Engine's layers, in a process of their own.

Kernels are stood in for by their formulas (tests.model.te_documents). WORK/models holds the cases;
WORK/CASE.pt gets logits, what a checkpoint of the plain layers has otherwise than theirs, and
weights whose mark of tensor parallelism is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megacpt.config.sections import DeviceKind
from tests.family_cases import cases
from tests.model.case_outputs import TOKENS_BS, tokens_of_documents
from tests.model.te_documents import build, pretend_a_gpu, stand_in_for_kernels
from tests.model.te_recipes import flattened


def write_found(work: Path, names: list[str]) -> None:
    pretend_a_gpu()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    stand_in_for_kernels([])
    every = cases()
    for name in names:
        folder = work / "models" / name
        engine, plain = (built(folder, kind) for kind in (DeviceKind.gpu, DeviceKind.cpu))
        found = {
            "logits": logits_of(engine),
            "packed": logits_of_documents(engine),
            "without": dict(without(folder, what=every[name].without)),
            "differences": differences(engine, plain=plain),
            "wrong_marks": wrong_marks(engine, folder=folder),
        }
        torch.save(found, work / f"{name}.pt")


def built(folder: Path, kind: DeviceKind, *, config: Path | None = None) -> Any:
    """The folder's weights, in the model of another ``config`` if one is given."""
    from megacpt.families import read_architecture
    from megacpt.model.weights import load_hf

    # Neither starts kernels, nor waits for streams.
    moe = {"moe_permute_fusion": False, "moe_token_dispatcher_type": "allgather"}
    model = build(config or folder, kind, **moe)
    load_hf([model], folder=folder, architecture=read_architecture(config or folder))
    return model


def is_cut(stated: Mapping[str, Any]) -> bool:
    """Into chunks, as the layers of GPUs refuse to."""
    return stated.get("attention_chunk_size", TOKENS_BS.numel()) < TOKENS_BS.numel()


def logits_of(model: Any) -> torch.Tensor:
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    with torch.no_grad():
        logits_BSV: torch.Tensor = model(TOKENS_BS, positions_BS, None)
    return logits_BSV


def logits_of_documents(model: Any) -> torch.Tensor:
    """Of all, end to end."""
    from megacpt.model.layers.attention.causal import packed_documents

    documents = tokens_of_documents()
    bounds = torch.tensor([0, *accumulate(map(len, documents))], dtype=torch.int32)
    packed = packed_documents(bounds, longest=max(map(len, documents)))
    positions_T = torch.cat([torch.arange(len(tokens)) for tokens in documents])
    with torch.no_grad():
        logits_1TV: torch.Tensor = model(
            torch.cat(documents)[None], positions_T[None], None, packed_seq_params=packed
        )
    return logits_1TV[0]


def without(
    folder: Path, *, what: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Logits of the same weights where config.json leaves something out."""
    for number, (name, changes) in enumerate(what.items()):
        if is_cut(changes):
            continue
        config = folder.parent / f"{folder.name}-{number}"
        config.mkdir()
        values = json.loads((folder / "config.json").read_text())
        (config / "config.json").write_text(json.dumps({**values, **changes}))
        yield name, logits_of(built(folder, DeviceKind.gpu, config=config))


def differences(engine: Any, *, plain: Any) -> list[str]:
    """Blocks of a checkpoint that one of both lacks or has with other values."""
    ours, theirs = dict(blocks(plain)), dict(blocks(engine))
    common = ours.keys() & theirs.keys()
    unequal = {at for at in common if not torch.equal(ours[at], theirs[at])}
    return sorted(map(str, (ours.keys() ^ theirs.keys()) | unequal))


def blocks(model: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """By key, shape of the whole and place in it."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    for entry in flattened(model):
        if isinstance(entry, ShardedTensor):
            yield (entry.key, entry.global_shape, entry.global_offset), entry.data


def wrong_marks(engine: Any, *, folder: Path) -> list[str]:
    """Else the gradient norm counts what every rank holds once a rank, or what is cut once. All of
    an expert is of the ranks that have it (megacpt.model.layers.experts.mark_expert)."""
    from megacpt.families import read_architecture
    from megacpt.model.placement import placed_params

    return [
        placed.row.native
        for placed in placed_params([engine], architecture=read_architecture(folder))
        if getattr(placed.tensor, "tensor_model_parallel", False)
        is not (placed.row.per_expert or placed.row.tp_dim is not None)
    ]
