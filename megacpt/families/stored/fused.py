# SPDX-License-Identifier: Apache-2.0
"""Which tensors of the model a folder holds as one. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megacpt.families import family_of
from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import hf_shapes
from megacpt.families.weights import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A tensor of an exported folder and the model's tensors that are in it."""

    shape: tuple[int, ...]
    parts: Mapping[str, Part]
    """By the name of the model's tensor."""


def wholes(
    architecture: Architecture, *, is_stored: Callable[[str], bool] = lambda _: False
) -> dict[str, Whole]:
    """By name, in model order; most hold one tensor of the model, their own. ``is_stored``: whether
    the base model's folder has a tensor of this name, whose form an export keeps."""
    family = family_of(architecture)
    elsewhere = family.parts(architecture) if family.fused else {}
    found: dict[str, Whole] = {}
    for name, shape in hf_shapes(architecture).items():
        part = elsewhere.get(name)
        if part is None or (part.optional and not is_stored(part.name)):
            part = Part(name=name, shape=shape)
        parts = found[part.name].parts if part.name in found else {}
        found[part.name] = Whole(shape=part.shape, parts={**parts, name: part})
    return found
