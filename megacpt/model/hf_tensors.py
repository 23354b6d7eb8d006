# SPDX-License-Identifier: Apache-2.0
"""Read slices of the tensors in a Hugging Face folder, one or many safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import StoredAs, find_places


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
        where = part.where(place.shape, dim=dim, span=span)
        with safe_open(str(place.file), framework="pt", device="cpu") as file:
            tensor: torch.Tensor = (
                file.get_slice(part.name)[where] if where else file.get_tensor(part.name)
            )
        return part.taken(tensor)
