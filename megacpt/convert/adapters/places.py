# SPDX-License-Identifier: Apache-2.0
"""Where PEFT has the update of each tensor of a model: on the module of transformers' model that
holds it, alone or with others, or on a parameter of all experts of a layer.

PEFT 0.21, E experts of rank R each, in a parameter:

    lora_A  (E R, I)  expert after expert
    lora_B  (O, R E)  rank after rank: expert e has the columns e, E + e, 2 E + e, ...

Those that lie above each other in it (gate, up) have an A each here, so that their R is the sum of
their ranks, and B is zero where the rows of one meet the columns of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from megacpt.convert.adapters.live import Live
from megacpt.errors import ModelError
from megacpt.families import family_of
from megacpt.families.adapter import Updated, updated
from megacpt.families.architecture import Architecture
from megacpt.families.peft_settings import EXPERTS, RENAMED_OF_MIXTURES
from megacpt.families.weights import Part

PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftPlace:
    """What has one pair of factors in PEFT."""

    name: str
    """In transformers' model: of the module, or of the parameter."""
    key: str
    """What the names of its tensors begin with."""
    experts: int | None
    """How many it is of; ``None``: a module."""
    turned: bool
    """PEFT takes its inputs for outputs."""
    as_parameter: bool
    """It is named by a parameter in the settings."""
    held: tuple[tuple[Updated, Part], ...]
    """What lies in it, and where; of all experts one after another."""
    outputs: int

    @property
    def modules(self) -> int:
        """Those with an A of their own, of one expert."""
        return len({each.module for each, _ in self.held}) // (self.experts or 1)

    def leg(self, each: Updated) -> int:
        """Which of them it is in."""
        names = list(dict.fromkeys(e.module for e, _ in self.held))
        return names.index(each.module) % self.modules


def places(architecture: Architecture, *, live: Live) -> list[PeftPlace]:
    """Of all that have an update, in model order. ``ModelError`` where transformers' model has no
    such parameter."""
    parts = family_of(architecture).parts(architecture)
    held: dict[str, list[tuple[Updated, Part]]] = {}
    for each in updated(architecture):
        name, part = _where(each, part=parts.get(each.weight), live=live)
        held.setdefault(name, []).append((each, part))
    found = [
        _place(name, held=tuple(inside), architecture=architecture, live=live)
        for name, inside in held.items()
    ]
    return list(_nested(found))


def rows_of(part: Part, *, num: int) -> torch.Tensor:
    """Which outputs of its place so many rows of a part are."""
    rows = torch.arange(num)
    if part.rows is None:
        return part.start + rows
    return rows // part.rows * part.group + part.start + rows % part.rows


def _where(each: Updated, *, part: Part | None, live: Live) -> tuple[str, Part]:
    if part is not None and part.index is not None:
        return _stacked(each, part=part, live=live), part
    if part is None or part.name.removesuffix(".weight") != each.module:
        part = Part(name=each.weight, shape=each.shape)
    return live.naming.stored(each.module), part


def _stacked(each: Updated, *, part: Part, live: Live) -> str:
    """Some folders call it otherwise (Granite); of one layer, no two have one shape."""
    before = live.naming.stored(each.module.partition(EXPERTS)[0]) + EXPERTS
    alike = (n for n, shape in live.shapes.items() if n.startswith(before) and shape == part.shape)
    return next(alike, live.naming.stored(part.name))


def _place(
    name: str,
    *,
    held: tuple[tuple[Updated, Part], ...],
    architecture: Architecture,
    live: Live,
) -> PeftPlace:
    (_, first), *_ = held
    stacked = first.index is not None
    shape = live.shapes.get(name if stacked else f"{name}.weight")
    if shape != first.shape:
        raise ModelError(
            f"transformers' {architecture.family} model has no {name} of shape "
            f"{list(first.shape)}, so that PEFT cannot adapt it; use megacpt merge."
        )
    mixture = architecture.experts is not None and name.rpartition(".")[2] in RENAMED_OF_MIXTURES
    says = name.rpartition(".")[0] in live.inputs_first
    return PeftPlace(
        name=name,
        key=f"{PREFIX}{name}",
        experts=first.shape[0] if stacked else None,
        turned=stacked and first.transposed != says,
        as_parameter=stacked or mixture,
        held=held,
        outputs=first.shape[-1 if first.transposed else -2],
    )


def _nested(found: Sequence[PeftPlace]) -> Iterator[PeftPlace]:
    """Of several parameters of a module, the first is wrapped first, so that it lies deepest."""
    for place in found:
        if place.experts is None:
            yield place
            continue
        module = place.name.rpartition(".")[0]
        same = [p.name for p in found if p.experts and p.name.rpartition(".")[0] == module]
        depth = len(same) - 1 - same.index(place.name)
        yield replace(place, key=f"{PREFIX}{module}{'.base_layer' * depth}")
