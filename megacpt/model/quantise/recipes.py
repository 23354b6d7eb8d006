# SPDX-License-Identifier: Apache-2.0
"""The operands of a linear layer's three products under each recipe without a state.

    forward           activation by rows       weight by rows
    data gradient     gradient by rows         weight by columns
    weight gradient   gradient by columns      activation by columns

"By rows": the product contracts along each row, so blocks lie in it; "by columns" likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch.nn.functional import pad

from megacpt.model.quantise import blocks
from megacpt.model.quantise.blocks import Operand, Quantised

SQUARE = (128, 128)
NVFP4_SQUARE = (16, 16)
ROTATED_ROWS = 16
# Transformer Engine rotates with one fixed choice of signs, the same in every layer and step.
ROTATION_SIGNS = "+++-+------+-+--"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """A matrix as the two products that read it see it; None where a product was not asked for."""

    by_rows: Operand
    by_columns: Operand | None


class Pass(Enum):
    """What a forward pass is for."""

    evaluation = "evaluation"
    """Nothing follows it, and it leaves no trace."""
    rehearsal = "rehearsal"
    """Training, but nothing is kept: the layer is recomputed when the backward pass needs it."""
    training = "training"
    """A backward pass follows."""


class Quantiser(Protocol):
    """A recipe at one layer."""

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands: ...

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands: ...

    def gradient(self, dy_RC: torch.Tensor) -> Operands: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensorwise:
    """One scale a matrix, from its own largest value; both products read the same numbers."""

    forward: torch.dtype
    backward: torch.dtype

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands:
        return both_ways(self.quantise(x_RC, dtype=self.forward))

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands:
        return both_ways(self.quantise(w_RC, dtype=self.forward))

    def gradient(self, dy_RC: torch.Tensor) -> Operands:
        return both_ways(self.quantise(dy_RC, dtype=self.backward))

    def quantise(self, x_RC: torch.Tensor, *, dtype: torch.dtype) -> Quantised:
        scale = blocks.current_scale(x_RC, dtype=dtype)
        return blocks.per_tensor(x_RC, scale=scale, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockwise:
    """1 x 128 values of activations and gradients share a scale, 128 x 128 of weights."""

    forward: torch.dtype
    backward: torch.dtype

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands:
        return self._each_way(x_RC, dtype=self.forward, columns=during is Pass.training)

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands:
        return both_ways(blocks.power_of_two_blocks(w_RC, block=SQUARE, dtype=self.forward))

    def gradient(self, dy_RC: torch.Tensor) -> Operands:
        return self._each_way(dy_RC, dtype=self.backward, columns=True)

    def _each_way(self, x_RC: torch.Tensor, *, dtype: torch.dtype, columns: bool) -> Operands:
        by_rows = blocks.power_of_two_blocks(x_RC, block=(1, 128), dtype=dtype)
        if not columns:
            return Operands(by_rows=by_rows.operand(), by_columns=None)
        by_columns = blocks.power_of_two_blocks(x_RC, block=(128, 1), dtype=dtype)
        return Operands(by_rows=by_rows.operand(), by_columns=by_columns.operand())


@dataclass(frozen=True, slots=True, kw_only=True)
class Microscaling:
    """32 values share a power of two (MXFP8), weights included: each product has its own."""

    forward: torch.dtype
    backward: torch.dtype

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands:
        return self._each_way(x_RC, dtype=self.forward, columns=during is Pass.training)

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands:
        return self._each_way(w_RC, dtype=self.forward, columns=during is not Pass.evaluation)

    def gradient(self, dy_RC: torch.Tensor) -> Operands:
        return self._each_way(dy_RC, dtype=self.backward, columns=True)

    def _each_way(self, x_RC: torch.Tensor, *, dtype: torch.dtype, columns: bool) -> Operands:
        by_rows = blocks.mx_blocks(x_RC, block=(1, 32), dtype=dtype)
        if not columns:
            return Operands(by_rows=by_rows.operand(), by_columns=None)
        by_columns = blocks.mx_blocks(x_RC, block=(32, 1), dtype=dtype)
        return Operands(by_rows=by_rows.operand(), by_columns=by_columns.operand())


@dataclass(frozen=True, slots=True, kw_only=True)
class NvFp4:
    """Four-bit values, 16 to a scale (16 x 16 of weights); gradients are rounded stochastically.

    Both sides of the weight gradient are rotated along the tokens, which spreads outliers and
    leaves the product as it is.
    """

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands:
        return self._each_way(x_RC, stochastic=False, columns=during is Pass.training)

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands:
        return both_ways(blocks.nvfp4_blocks(w_RC, block=NVFP4_SQUARE))

    def gradient(self, dy_RC: torch.Tensor) -> Operands:
        return self._each_way(dy_RC, stochastic=True, columns=True)

    def _each_way(self, x_RC: torch.Tensor, *, stochastic: bool, columns: bool) -> Operands:
        by_rows = blocks.nvfp4_blocks(x_RC, block=(1, 16), stochastic=stochastic)
        if not columns:
            return Operands(by_rows=by_rows.operand(), by_columns=None)
        by_columns = blocks.nvfp4_blocks(rotated(x_RC), block=(16, 1), stochastic=stochastic)
        return Operands(by_rows=by_rows.operand(), by_columns=by_columns.operand())


def both_ways(quantised: Quantised) -> Operands:
    """The same numbers for both products."""
    operand = quantised.operand()
    return Operands(by_rows=operand, by_columns=operand)


def rotated(x_RC: torch.Tensor) -> torch.Tensor:
    """Each 16 rows times an orthogonal matrix, in the type of x; missing rows are zeros."""
    x_RC = pad(x_RC, (0, 0, 0, -x_RC.shape[0] % ROTATED_ROWS))
    rotation = hadamard(dtype=x_RC.dtype)
    by_group = x_RC.t().reshape(-1, ROTATED_ROWS) @ rotation
    return by_group.view(x_RC.shape[1], x_RC.shape[0]).t()


def hadamard(*, dtype: torch.dtype) -> torch.Tensor:
    """The orthogonal 16 x 16 matrix of plus and minus a quarter: Sylvester's, its rows signed."""
    index = torch.arange(ROTATED_ROWS)
    both = index[:, None] & index[None, :]
    odd = sum((both >> bit) & 1 for bit in range(4)) % 2
    signs = torch.tensor([1.0 if sign == "+" else -1.0 for sign in ROTATION_SIGNS])
    return (signs[:, None] * (1.0 - 2.0 * odd) / 4.0).to(dtype)
