# SPDX-License-Identifier: Apache-2.0
"""The LoRA that comes nearest to what training has changed in a full model.

Of the difference D_OI of each module's weight the R largest singular values and their vectors: no
other product of that rank is nearer in the sum of squares (Eckart and Young). Each factor takes the
roots of the values. Norms, biases, routers and, unless they are asked for, embedding and head stay
the base model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from megacpt.config.sections import AdapterConfig
from megacpt.convert.adapters.plain import in_memory
from megacpt.convert.sources import SourceModel, SourceTensor
from megacpt.errors import ModelError
from megacpt.families.adapter import A, B, Updated, factor_name, updated
from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import table_name
from megacpt.families.targets import with_adapter
from megacpt.families.weights import Role
from megacpt.model.adapters.start import Singular

SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """How near the update of a module is to the difference."""

    module: str
    difference: float
    """Its norm, the root of the sum of squares."""
    left: float
    """That of what the update has not."""

    @property
    def error(self) -> float:
        """Of the difference, from 0 to 1."""
        return self.left / self.difference if self.difference else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """An adapter beside the base model."""

    source: SourceModel
    modules: list[Nearest]
    others: dict[str, float]
    """Tensors that have changed and are not in it -> the norm of the difference."""

    @property
    def error(self) -> float:
        """Of all modules together."""
        squares = [[getattr(m, name) ** 2 for m in self.modules] for name in ("left", "difference")]
        left, whole = (math.fsum(each) for each in squares)
        return math.sqrt(left / whole) if whole else 0.0


def extract(trained: SourceModel, *, base: SourceModel, settings: AdapterConfig) -> Extracted:
    """``ModelError`` where the two are not of one architecture."""
    _require_alike(trained, base=base)
    architecture = with_adapter(base.architecture, settings=settings)
    tensors: dict[str, SourceTensor] = {}
    modules = []
    for module, parts in _modules(architecture).items():
        found = _Module(parts, trained=trained, base=base)
        modules.append(found.nearest(module, rank=settings.rank, into=tensors))
    if not any(module.difference for module in modules) and not any(_tables(architecture).values()):
        raise ModelError(
            f"{trained.folder} and {base.folder} have the same weights in all modules asked for; "
            "name what was trained, and what it was before (--base)."
        )
    for role, wanted in _tables(architecture).items():
        name = table_name(architecture, role=role)
        if wanted:
            tensors[name] = trained.tensors[name].of_type(torch.float32)
    held = {each.weight for each in updated(architecture)} | tensors.keys()
    left = (name for name in base.tensors if name not in held)
    norms = {name: _distance(name, trained=trained, base=base) for name in left}
    source = replace(base, architecture=architecture, tensors=tensors, folder=trained.folder)
    others = {name: norm for name, norm in norms.items() if norm}
    return Extracted(source=source, modules=modules, others=others)


def _require_alike(trained: SourceModel, *, base: SourceModel) -> None:
    for name in trained.tensors.keys() | base.tensors.keys():
        ours, theirs = trained.tensors.get(name), base.tensors.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            raise ModelError(
                f"{trained.folder} and {base.folder} are not of one architecture: {name} is of "
                f"shape {list(ours.shape) if ours else None} and "
                f"{list(theirs.shape) if theirs else None}; name the model that training began "
                "with (--base)."
            )


def _modules(architecture: Architecture) -> dict[str, list[Updated]]:
    found: dict[str, list[Updated]] = {}
    for each in updated(architecture):
        found.setdefault(each.module, []).append(each)
    return found


def _tables(architecture: Architecture) -> dict[Role, bool]:
    adapter = architecture.adapter
    assert adapter is not None
    return {Role.embedding: adapter.embedding, Role.head: adapter.head}


def _distance(name: str, *, trained: SourceModel, base: SourceModel) -> float:
    one, other = trained.tensors[name], base.tensors[name]
    squares = 0.0
    for piece in one.pieces():
        ours, theirs = (
            t.rows(piece.start, count=piece.stop - piece.start).double() for t in (one, other)
        )
        squares += float((ours - theirs).square().sum())
    return math.sqrt(squares)


class _Module:
    """The tensors of the model that a module holds, its rows in their order."""

    def __init__(self, parts: list[Updated], *, trained: SourceModel, base: SourceModel) -> None:
        self._parts, self._trained, self._base = parts, trained, base

    def nearest(self, module: str, *, rank: int, into: dict[str, SourceTensor]) -> Nearest:
        """Its factors go ``into``."""
        d_OI = torch.cat(list(self._differences()))
        found = Singular.of(d_OI, rank=rank, seed=SEED)
        roots_R = found.values_R.sqrt()
        a_RI = _filled(roots_R.unsqueeze(1) * found.right_RI, size=rank, dim=0)
        b_OR = _filled(found.left_OR * roots_R, size=rank, dim=1)
        into[factor_name(module, factor=A)] = in_memory(a_RI)
        first = 0
        for part in self._parts:
            rows = b_OR[first : first + part.shape[0]]
            into[factor_name(part.weight, factor=B)] = in_memory(rows)
            first += len(rows)
        left = torch.linalg.vector_norm(d_OI - b_OR @ a_RI)
        whole = torch.linalg.vector_norm(d_OI)
        return Nearest(module=module, difference=float(whole), left=float(left))

    def _differences(self) -> Iterator[torch.Tensor]:
        for part in self._parts:
            ours, theirs = (
                model.tensors[part.weight].whole().float() for model in (self._trained, self._base)
            )
            yield ours - theirs


def _filled(factor: torch.Tensor, *, size: int, dim: int) -> torch.Tensor:
    """With zeros, where the module has fewer singular values than the rank."""
    missing = size - factor.shape[dim]
    if not missing:
        return factor
    shape = list(factor.shape)
    shape[dim] = missing
    return torch.cat([factor, factor.new_zeros(shape)], dim=dim)
