# SPDX-License-Identifier: Apache-2.0
"""The first values of an adapter: by seed and name, or from the weights that it updates.

They are made of whole tensors and then cut, so that every layout begins with the same. Shapes: I
inputs, O outputs of a Hugging Face module, R rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from megacpt.families.adapter import CORE, MAGNITUDE, A, B, Linear, adapted_linears
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.weights import HfTensor
from megacpt.model.placement import Placed
from megacpt.model.weights import fill, within

EXACT_SIZE_MAX = 1024
"""Of the smaller side of a matrix; of larger ones singular vectors are searched for at random."""
SEARCH_STEPS = 16
CORE_STD = 1e-5
"""Of the first values between LoRA-XS's factors (section 3, https://arxiv.org/abs/2405.17604)."""


class ReadWeight(Protocol):
    def __call__(self, name: str, *, source: HfTensor) -> torch.Tensor:
        """The whole tensor of a linear layer by its Hugging Face name."""


def start_adapter(
    chunks: Sequence[Any], *, architecture: Architecture, weight: ReadWeight, seed: int
) -> None:
    """Fill this rank's factors with the method's first values."""
    start = _Start(architecture, weight=weight, seed=seed)
    fill(chunks, read=start.read, architecture=architecture, of_adapter=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Singular:
    """The largest singular values of a matrix w_OI, falling, and their vectors.

    Of each pair the sign is such that the entry of largest absolute value is positive in the vector
    along I, the left one where a weight multiplies from the right, as in LoRA-XS's paper.
    """

    left_OR: torch.Tensor
    values_R: torch.Tensor
    right_RI: torch.Tensor

    @classmethod
    def of(cls, w_OI: torch.Tensor, *, rank: int, seed: int) -> Singular:
        """In float32."""
        wide = w_OI.float()
        if min(wide.shape) <= EXACT_SIZE_MAX:
            left, values, right = torch.linalg.svd(wide, full_matrices=False)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                size = min(4 * rank, *wide.shape)
                left, values, right = torch.svd_lowrank(wide, q=size, niter=SEARCH_STEPS)
                right = right.t()
        left, values, right = left[:, :rank], values[:rank], right[:rank]
        largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True)).squeeze(1)
        signs = torch.where(largest < 0, -1.0, 1.0)
        return cls(left_OR=left * signs, values_R=values, right_RI=right * signs.unsqueeze(1))


class _Start:
    """What ``fill`` reads; of the factors of one module each is asked for in turn."""

    def __init__(self, architecture: Architecture, *, weight: ReadWeight, seed: int) -> None:
        assert architecture.adapter is not None
        self._adapter: Adapter = architecture.adapter
        self._architecture, self._weight, self._seed = architecture, weight, seed
        self._linears = {
            row.native: linear for linear in adapted_linears(architecture) for row in linear.factors
        }
        self._known: tuple[str, tuple[torch.Tensor, torch.Tensor]] = ("", (torch.empty(0),) * 2)

    def read(self, placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        return within(self._whole(placed, source=source), dim=placed.row.tp_dim, span=span)

    def _whole(self, placed: Placed, *, source: HfTensor) -> torch.Tensor:
        name = placed.row.native.rpartition(".")[2].removesuffix("_start")
        shape = source.shape(self._architecture)
        if name == CORE:
            return torch.randn(shape, generator=self._generator(placed, source=source)) * CORE_STD
        linear = self._linears[placed.row.native]
        number = placed.row.sources.index(source)
        if name == MAGNITUDE:
            w_OI = self._rows(linear.sources[number], placed=placed)
            sizes_O: torch.Tensor = torch.linalg.vector_norm(w_OI, dim=1)
            return sizes_O
        if self._adapter.has_core or self._adapter.has_start:
            return self._of_weight(name, number=number, linear=linear, placed=placed)
        if name == B:
            return torch.zeros(shape)
        # As torch begins a linear layer of so many inputs, and PEFT its factor.
        bound = shape[1] ** -0.5
        drawn = torch.rand(shape, generator=self._generator(placed, source=source))
        return drawn.mul_(2 * bound).sub_(bound)

    def _generator(self, placed: Placed, *, source: HfTensor) -> torch.Generator:
        return torch.Generator().manual_seed(_number(placed.hf_name(source), seed=self._seed))

    def _of_weight(self, name: str, *, number: int, linear: Linear, placed: Placed) -> torch.Tensor:
        """A part of the largest singular vectors of the module's weight."""
        module = number if name == A else linear.module_of[number]
        inner, outer = self._factors(linear, module=module, placed=placed)
        if name == A:
            return inner
        before = [
            source.shape(self._architecture)[0]
            for source, of in zip(linear.sources[:number], linear.module_of, strict=False)
            if of == module
        ]
        first, rows = sum(before), linear.sources[number].shape(self._architecture)[0]
        return outer[first : first + rows]

    def _factors(
        self, linear: Linear, *, module: int, placed: Placed
    ) -> tuple[torch.Tensor, torch.Tensor]:
        name = linear.modules[module].format(layer=placed.layer, expert=placed.expert)
        if self._known[0] != name:
            sources = zip(linear.sources, linear.module_of, strict=True)
            w_OI = torch.cat([self._rows(s, placed=placed) for s, of in sources if of == module])
            self._known = name, self._split(w_OI, seed=_number(name, seed=self._seed))
        return self._known[1]

    def _split(self, w_OI: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        adapter = self._adapter
        found = Singular.of(w_OI, rank=adapter.rank, seed=seed)
        if adapter.has_core:
            return found.values_R.unsqueeze(1) * found.right_RI, found.left_OR
        roots_R = (found.values_R / adapter.scale).sqrt()
        return roots_R.unsqueeze(1) * found.right_RI, found.left_OR * roots_R

    def _rows(self, source: HfTensor, *, placed: Placed) -> torch.Tensor:
        return self._weight(placed.hf_name(source), source=source).float()


def _number(name: str, *, seed: int) -> int:
    """To begin a generator with."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
