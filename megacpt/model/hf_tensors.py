# SPDX-License-Identifier: Apache-2.0
"""Read slices of the tensors in a Hugging Face folder, one or many safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import StoredAs, find_places
from megacpt.model.quantise.four_bits import decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class HfTensors:
    """Files are mapped while one tensor is read, then let go, so that the pages of a tensor already
    copied do not count against the next one."""

    places: Mapping[str, StoredAs]

    @classmethod
    def of_folder(cls, folder: Path, *, architecture: Architecture) -> HfTensors:
        """Those of the model, all of them there and of their shapes."""
        return cls(places=find_places(folder, architecture=architecture))

    def read(self, name: str, *, dim: int | None = None, span: slice | None = None) -> torch.Tensor:
        """The tensor, or its ``span`` along ``dim``."""
        place = self.places[name]
        part = place.part
        if part.scales is None:
            where = part.where(place.shape, dim=dim, span=span)
            return part.taken(_read(part.name, file=place.file, where=where))
        return _decoded(place, dim=dim, span=span)


def _read(name: str, *, file: Path, where: Sequence[slice]) -> torch.Tensor:
    """``where``: none for all of it."""
    with safe_open(str(file), framework="pt", device="cpu") as opened:
        tensor: torch.Tensor = (
            opened.get_slice(name)[tuple(where)] if where else opened.get_tensor(name)
        )
    return tensor


def _decoded(place: StoredAs, *, dim: int | None, span: slice | None) -> torch.Tensor:
    """Of a part in four-bit numbers: whole rows are made of those, and then cut."""
    part = place.part
    assert part.scales is not None
    assert place.scales_file is not None
    rows = span if dim == 0 else slice(0, place.shape[0])
    where = part.where(place.shape, dim=0, span=rows)[:-1]
    values = decoded(
        part.taken(_read(part.name, file=place.file, where=where)),
        scales_RG=part.taken(_read(part.scales, file=place.scales_file, where=where)),
    )
    return values if dim != 1 or span is None else values[:, span]
