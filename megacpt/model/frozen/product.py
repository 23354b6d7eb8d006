# SPDX-License-Identifier: Apache-2.0
"""A linear layer's product with a packed weight, and the gradient of its input.

Shapes: I inputs, O outputs; y_O = x_I w_OI^T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

from megacpt.model.frozen.packed import Packed


def packed_linear(x: torch.Tensor, *, weight: Packed) -> torch.Tensor:
    """``x`` (..., I) times the weight, in the type of x.

    For the backward pass nothing is kept beside the packed weight: its values are computed again.
    """
    y: torch.Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Packed) -> torch.Tensor:
        ctx.weight = weight
        return linear(x, weight.dense(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        return dy.matmul(ctx.weight.dense(dy.dtype)), None
