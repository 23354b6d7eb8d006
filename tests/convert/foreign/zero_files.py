# SPDX-License-Identifier: Apache-2.0
"""Files as DeepSpeed 0.19 writes them, without DeepSpeed: the same keys, order, gaps and classes.

``tools/bench/foreign_checkpoints.py`` compares with what DeepSpeed itself writes and reads.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
_MODULE, _CLASS = "deepspeed.runtime.zero.config", "ZeroStageEnum"


class _Stage(int, Enum):
    weights = 3


def _share(tensor: torch.Tensor, *, rank: int, ranks: int) -> torch.Tensor:
    size = math.ceil(tensor.numel() / ranks)
    filled = torch.cat([tensor.flatten(), tensor.new_zeros(size * ranks - tensor.numel())])
    return filled[rank * size : (rank + 1) * size].clone()


def _shapes(tensors: Tensors) -> OrderedDict[str, torch.Size]:
    return OrderedDict((name, tensor.shape) for name, tensor in tensors.items())


def write_zero3(
    folder: Path,
    *,
    groups: Sequence[Tensors],
    ranks: int,
    frozen: Tensors | None = None,
    shared: dict[str, str] | None = None,
) -> None:
    """Each group is a subgroup of the optimizer."""
    folder.mkdir(parents=True)
    frozen = frozen or {}
    for rank in range(ranks):
        flats = [torch.cat([_share(t, rank=rank, ranks=ranks) for t in g.values()]) for g in groups]
        flats[-1] = torch.nn.Parameter(flats[-1])
        for flat in flats:
            flat.ds_id = rank  # type: ignore[attr-defined]  # it has attributes, which are saved too
        shares = {name: _share(t, rank=rank, ranks=ranks) for name, t in frozen.items()}
        _save_model(
            folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt",
            groups=groups,
            frozen=frozen,
            shares=shares,
            shared=shared or {},
        )
        _save_optimizer(folder, rank=rank, ranks=ranks, stage=3, fp32_flat_groups=flats)


def write_zero2(folder: Path, *, groups: Sequence[Tensors], ranks: int) -> None:
    """Each group is cut over the ranks as a whole."""
    folder.mkdir(parents=True)
    _save_model(
        folder / "mp_rank_00_model_states.pt", groups=groups, frozen={}, shares={}, shared={}
    )
    for rank in range(ranks):
        flats = []
        for group in groups:
            flat = torch.cat([tensor.flatten() for tensor in group.values()])
            size = 2 * math.ceil(flat.numel() / (2 * ranks))
            filled = torch.cat([flat, flat.new_zeros(size * ranks - flat.numel())])
            flats.append(filled[rank * size : (rank + 1) * size].clone())
        _save_optimizer(
            folder, rank=rank, ranks=ranks, stage=2, single_partition_of_fp32_groups=flats
        )


def _save_model(
    path: Path,
    *,
    groups: Sequence[Tensors],
    frozen: Tensors,
    shares: Tensors,
    shared: dict[str, str],
) -> None:
    names = [name for group in groups for name in group]
    state = {
        "module": OrderedDict((name, torch.empty(0, dtype=torch.bfloat16)) for name in names),
        "buffer_names": [],
        "param_shapes": [_shapes(group) for group in groups],
        "frozen_param_shapes": _shapes(frozen),
        "frozen_param_fragments": OrderedDict(shares),
        "shared_params": shared,
        "ds_version": "0.19.8",
    }
    torch.save(state, path)


def _save_optimizer(folder: Path, *, rank: int, ranks: int, stage: int, **flats: Any) -> None:
    state = {"zero_stage": _stage(stage), "partition_count": ranks, **flats}
    state["optimizer_state_dict"] = {"state": {0: {"exp_avg": torch.ones(3)}}}
    path = folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
    with _importable():
        torch.save({"optimizer_state_dict": state, "ds_version": "0.19.8"}, path)


def _stage(stage: int) -> Any:
    return _Stage.weights if stage == 3 else stage


@contextmanager
def _importable() -> Iterator[None]:
    """DeepSpeed's class under its own name, while a pickle is made of it."""
    _Stage.__module__, _Stage.__qualname__, _Stage.__name__ = _MODULE, _CLASS, _CLASS
    names = [_MODULE.rsplit(".", n)[0] for n in range(4)]
    sys.modules.update({name: ModuleType(name) for name in names})
    setattr(sys.modules[_MODULE], _CLASS, _Stage)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
