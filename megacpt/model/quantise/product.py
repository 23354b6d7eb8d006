# SPDX-License-Identifier: Apache-2.0
"""A linear layer's product and its two gradients, each on quantised operands.

Shapes: T tokens, I inputs, O outputs; y_TO = x_TI w_OI^T.
"""

from __future__ import annotations

from typing import Any

import torch

from megacpt.model.quantise.blocks import Operand
from megacpt.model.quantise.recipes import Operands, Quantiser


def quantised_linear(
    x: torch.Tensor,
    *,
    w_OI: torch.Tensor,
    activation: Operands,
    weight: Operands,
    quantiser: Quantiser,
) -> torch.Tensor:
    """``x`` (..., I) times the weight; ``activation`` and ``weight`` are the two, quantised."""
    y_TO: torch.Tensor = _Product.apply(x, w_OI, activation, weight, quantiser)  # type: ignore[no-untyped-call]
    # Here and not inside: a view that is made there cannot be added to in place, as biases are.
    return y_TO.view(*x.shape[:-1], w_OI.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_OI: torch.Tensor,
        activation: Operands,
        weight: Operands,
        quantiser: Quantiser,
    ) -> torch.Tensor:
        y_TO = multiply(activation.by_rows, b=transposed(weight.by_rows), dtype=x.dtype)
        _keep(ctx, activation=activation.by_columns, weight=weight.by_columns)
        ctx.quantiser, ctx.dtypes, ctx.shape = quantiser, (x.dtype, w_OI.dtype), x.shape
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        activation, weight = _kept(ctx)
        gradient = ctx.quantiser.gradient(dy_TO)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx_TI = multiply(gradient.by_rows, b=weight, dtype=ctx.dtypes[0])
            dx = dx_TI.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            dw = multiply(transposed(gradient.by_columns), b=activation, dtype=ctx.dtypes[1])
        return dx, dw, None, None, None


def _keep(ctx: Any, *, activation: Operand | None, weight: Operand | None) -> None:
    """For the backward pass; without one there is nothing to keep."""
    if activation is not None and weight is not None:
        ctx.save_for_backward(activation.values, weight.values)
        ctx.factors = (activation.factor, weight.factor)


def _kept(ctx: Any) -> tuple[Operand, Operand]:
    activation, weight = (
        Operand(values=values, factor=factor)
        for values, factor in zip(ctx.saved_tensors, ctx.factors, strict=True)
    )
    return activation, weight


def multiply(a: Operand, *, b: Operand, dtype: torch.dtype) -> torch.Tensor:
    """The product of the values, accumulated in float32, times both factors, rounded once."""
    left, right = a.values, b.values
    if dtype is not torch.bfloat16:
        left, right = left.to(dtype), right.to(dtype)
    return torch.addmm(left.new_zeros(1), left, right, beta=0, alpha=a.factor * b.factor)


def transposed(operand: Operand) -> Operand:
    return Operand(values=operand.values.t(), factor=operand.factor)
