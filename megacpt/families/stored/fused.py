# SPDX-License-Identifier: Apache-2.0
"""Tensors as a folder holds them, put together from those of the model. Free of torch: only tensor
methods are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megacpt.families import family_of
from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import hf_shapes
from megacpt.families.weights import Part

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A tensor of an exported folder and the model's tensors that are in it."""

    shape: tuple[int, ...]
    parts: Mapping[str, Part]
    """By the name of the model's tensor."""


def wholes(architecture: Architecture) -> dict[str, Whole]:
    """By name, in model order; most hold one tensor of the model, their own."""
    family = family_of(architecture)
    elsewhere = family.parts(architecture) if family.fused else {}
    found: dict[str, Whole] = {}
    for name, shape in hf_shapes(architecture).items():
        part = elsewhere.get(name) or Part(name=name, shape=shape)
        parts = found[part.name].parts if part.name in found else {}
        found[part.name] = Whole(shape=part.shape, parts={**parts, name: part})
    return found


def fuse(
    tensors: Iterable[tuple[str, Tensor]], *, architecture: Architecture
) -> Iterator[tuple[str, Tensor]]:
    """The folder's tensors from the model's, each as soon as its last part has come."""
    places = {
        name: (whole_name, part)
        for whole_name, whole in wholes(architecture).items()
        for name, part in whole.parts.items()
    }
    missing = {n: set(whole.parts) for n, whole in wholes(architecture).items()}
    begun: dict[str, Tensor] = {}
    for name, tensor in tensors:
        whole_name, part = places[name]
        if len(missing[whole_name]) == 1 and whole_name == name:
            yield name, tensor
            continue
        whole = begun.setdefault(whole_name, tensor.new_empty(part.shape))
        where = part.where(tuple(tensor.shape), dim=None, span=None)
        place = part.within(whole[where])
        place.copy_(tensor.view_as(place))
        missing[whole_name].discard(name)
        if not missing[whole_name]:
            yield whole_name, begun.pop(whole_name)
    assert not begun, f"parts are missing of {', '.join(begun)}"
