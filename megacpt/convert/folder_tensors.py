# SPDX-License-Identifier: Apache-2.0
"""The tensors of a Hugging Face folder, made of those of the model: put together where a family
holds several as one, called as in the base model's folder, beside what else lies there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from megacpt.convert.sources import SourceTensor, stored_tensor
from megacpt.families.architecture import Architecture
from megacpt.families.stored.files import stored_names
from megacpt.families.stored.fused import Whole, wholes
from megacpt.families.stored.places import beside_of, frozen_names
from megacpt.families.weights import Part


def folder_tensors(
    tensors: Mapping[str, SourceTensor],
    *,
    architecture: Architecture,
    described_by: Path,
    dtype: torch.dtype | None,
) -> dict[str, SourceTensor]:
    """``dtype``: of the model's; None: each keeps its own, as those beside it do in any case."""
    beside, frozen = beside_of(described_by, architecture=architecture), frozen_names(architecture)
    names = frozenset(stored_names(described_by) or ())
    held = wholes(architecture, is_stored=lambda name: beside.naming.stored(name) in names)
    model = {
        beside.naming.stored(name): _put_together(whole, tensors=tensors).of_type(
            torch.float32 if name in frozen else dtype
        )
        for name, whole in held.items()
    }
    others = {name: stored_tensor(name, stored=found) for name, found in beside.tensors.items()}
    return {**model, **others}


def _put_together(whole: Whole, *, tensors: Mapping[str, SourceTensor]) -> SourceTensor:
    parts = [(tensors[name], part) for name, part in whole.parts.items()]
    first, part = parts[0]
    if len(parts) == 1 and part.index is None and first.shape == whole.shape:
        return first
    dtype = first.dtype
    for tensor, _ in parts:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return SourceTensor(shape=whole.shape, dtype=dtype, fill=partial(_fill, parts=parts))


def _fill(out: torch.Tensor, *, first: int, parts: list[tuple[SourceTensor, Part]]) -> None:
    for tensor, part in parts:
        rows = tensor.shape[0]
        if part.index is not None:
            if first <= part.index < first + len(out):
                entry = out[part.index - first : part.index - first + 1]
                where = part.where(tensor.shape, dim=None, span=None)
                place = part.within(entry[(slice(None), *where[1:])] if where else entry)
                place.copy_(tensor.whole().view_as(place))
            continue
        if part.rows is not None:
            _fill_groups(out, first=first, tensor=tensor, part=part)
            continue
        start, end = max(part.start, first), min(part.start + rows, first + len(out))
        if start < end:
            tensor.read(out[start - first : end - first], first=start - part.start)


def _fill_groups(out: torch.Tensor, *, first: int, tensor: SourceTensor, part: Part) -> None:
    """The part's rows of each group that ``out``, the whole tensor's from ``first`` on, has."""
    assert part.rows is not None
    assert not part.transposed
    rows = torch.arange(first, first + len(out))
    within = rows % part.group - part.start
    is_part = (within >= 0) & (within < part.rows)
    own = (rows // part.group * part.rows + within)[is_part]
    if len(own):
        lowest = int(own[0])
        values = tensor.rows(lowest, count=int(own[-1]) - lowest + 1)
        out[is_part] = values[own - lowest].to(out.dtype)
