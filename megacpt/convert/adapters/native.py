# SPDX-License-Identifier: Apache-2.0
"""Values of an adapter into native models, of any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.convert.adapters.merged import merged
from megacpt.convert.adapters.read import peft_folder
from megacpt.convert.native.reader import native_checkpoint
from megacpt.convert.sources import SourceModel, SourceTensor, hugging_face
from megacpt.errors import ConfigError, Violation
from megacpt.families.adapter import A, factor_name, updated
from megacpt.families.architecture import Architecture
from megacpt.families.weights import HfTensor, Param
from megacpt.model.build import build_model
from megacpt.model.placement import Placed
from megacpt.model.weights import fill, within

SEQUENCE_LENGTH = 1024
"""Of what the models here are asked."""


def native_model(source: SourceModel) -> list[Any]:
    """The adapter beside its base model in float32, on this one rank."""
    base = hugging_face(source.described_by, architecture=source.architecture)
    chunks = build_model(
        source.architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=SEQUENCE_LENGTH,
    )
    tensors = {**base.tensors, **source.tensors}
    _fill_from(chunks, tensors=tensors, architecture=source.architecture)
    return chunks


def begin_with(
    chunks: Sequence[Any], *, folder: Path, base: Path, architecture: Architecture
) -> None:
    """Give a run's adapter, which is ``architecture``'s, the values that PEFT's folder holds, also
    of what was trained beside; ``ConfigError`` where that is another adapter."""
    source = peft_folder(folder, base=base)
    _require_same(source, architecture=architecture)
    _fill_from(chunks, tensors=source.tensors, architecture=architecture)


def merge_into(
    chunks: Sequence[Any], *, checkpoint: Path, base_folder: Path, architecture: Architecture
) -> None:
    """Give a run of all weights those of ``base_folder`` with the update of an adapter's checkpoint
    added in float32."""
    adapter = native_checkpoint(checkpoint, described_by=base_folder)
    base = hugging_face(base_folder, architecture=architecture)
    source = merged(adapter, base=base)
    with source.proving():
        _fill_from(chunks, tensors=source.tensors, architecture=architecture)


def _require_same(source: SourceModel, *, architecture: Architecture) -> None:
    theirs, ours = source.architecture.adapter, architecture.adapter
    assert theirs is not None
    assert ours is not None
    for setting in ("method", "rank", "alpha", "rank_stabilised"):
        stated = getattr(theirs, setting)
        if stated != getattr(ours, setting):
            raise _refusal(source, rule=f"has {setting}={stated}", path=f"adapter.{setting}")
    held, wanted = (
        {each.weight: each for each in updated(a)} for a in (source.architecture, architecture)
    )
    for name in sorted(held.keys() ^ wanted.keys()):
        what = "adapts" if name in held else "does not adapt"
        raise _refusal(source, rule=f"{what} {name}", path="adapter.targets and adapter.layers")
    for each in held.values():
        rank = source.tensors[factor_name(each.module, factor=A)].shape[0]
        if rank != ours.rank:
            rule = f"has rank {rank} for {each.module} (rank_pattern), and here all have one"
            raise _refusal(source, rule=rule, path="adapter.rank")
    for table in ("embedding", "head"):
        if getattr(theirs, table) and not getattr(ours, table):
            rule = f"holds the whole {table} as it was trained"
            raise _refusal(source, rule=rule, path=f"adapter.train_{table}")


def _refusal(source: SourceModel, *, rule: str, path: str) -> ConfigError:
    remedy = f"set {path} as that adapter has it"
    return ConfigError(
        [Violation(path="adapter.load_from", value=str(source.folder), rule=rule, remedy=remedy)]
    )


def _fill_from(
    chunks: Sequence[Any], *, tensors: Mapping[str, SourceTensor], architecture: Architecture
) -> None:
    """Those that are there, by the names of their rows."""

    def read(placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        held = tensors[placed.hf_name(source)]
        if placed.row.tp_dim == 0:
            return held.rows(span.start, count=span.stop - span.start)
        return within(held.whole(), dim=placed.row.tp_dim, span=span)

    def is_there(row: Param) -> bool:
        layer = next(iter(row.layers(architecture)), 0)
        return row.sources[0].name.format(layer=layer, expert=0) in tensors

    for of_adapter in (False, True):
        fill(chunks, read=read, architecture=architecture, of_adapter=of_adapter, wanted=is_there)
