# SPDX-License-Identifier: Apache-2.0
"""The product of a frozen weight and its low-rank update, and the gradients of the update.

Shapes: T tokens, I inputs, O outputs, R rank of all updates together. With a gain g_O

    y_TO = g_O (x_TI w_OI^T + l_TI a_RI^T b_OR^T)

where l is x, or x with some inputs dropped. Kept for the backward pass are the input (where a is
trained), l a^T, and y (where g is trained): never a copy of the weight, nor a gradient of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

from megacpt.model.frozen.packed import Packed


def adapted_product(
    x: torch.Tensor,
    *,
    weight: torch.Tensor | Packed | None,
    a_RI: torch.Tensor,
    b_OR: torch.Tensor,
    gain_O: torch.Tensor | None = None,
    low: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x`` (..., I) to y (..., O). ``weight`` None: the update's part alone. ``low``: l, where it
    differs from ``x``. Gradients are for x, l, a, b and g."""
    y: torch.Tensor = _Product.apply(x, low, a_RI, b_OR, gain_O, weight)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        low: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        gain_O: torch.Tensor | None,
        weight: torch.Tensor | Packed | None,
    ) -> torch.Tensor:
        seen = x if low is None else low
        h_TR = linear(seen.flatten(0, -2), a_RI)
        out = _gained(b_OR, gain_O=gain_O)
        if weight is None:
            y_TO = h_TR @ out.t()
        else:
            y_TO = linear(x.flatten(0, -2), _gained(_dense(weight, dtype=x.dtype), gain_O=gain_O))
            y_TO.addmm_(h_TR, out.t())
        # A view of itself could not be added to in place, as an expert's bias is.
        y = y_TO if x.dim() == 2 else y_TO.view(*x.shape[:-1], len(b_OR))
        _, _, needs_a, needs_b, needs_gain, _ = ctx.needs_input_grad
        ctx.save_for_backward(
            seen if needs_a else None,
            h_TR if needs_b else None,
            a_RI,
            b_OR,
            gain_O,
            y if needs_gain else None,
        )
        # Not of those that are saved for the backward pass: no gradient of it is ever asked for.
        ctx.weight = weight.detach() if isinstance(weight, torch.Tensor) else weight
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        seen, h_TR, a_RI, b_OR, gain_O, y = ctx.saved_tensors
        needs_x, needs_low, needs_a, needs_b, needs_gain, _ = ctx.needs_input_grad
        dy_TO = dy.flatten(0, -2)
        dh_TR = dy_TO @ _gained(b_OR, gain_O=gain_O)
        dx = dlow = da = db = dgain = None
        if needs_x and ctx.weight is not None:
            dx = dy_TO @ _gained(_dense(ctx.weight, dtype=dy.dtype), gain_O=gain_O)
        if needs_low:
            dlow = (dh_TR @ a_RI).view(ctx.shape)
        elif needs_x:
            dx = dh_TR @ a_RI if dx is None else dx.addmm_(dh_TR, a_RI)
        if needs_a:
            da = dh_TR.t() @ seen.flatten(0, -2)
        if needs_b:
            db = _gained(dy_TO.t() @ h_TR, gain_O=gain_O)
        if needs_gain:
            # y is the gain times what it multiplies.
            dgain = (dy_TO * y.flatten(0, -2)).sum(0, dtype=torch.float32) / gain_O.float()
            dgain = dgain.to(gain_O.dtype)
        return None if dx is None else dx.view(ctx.shape), dlow, da, db, dgain, None


def _gained(rows: torch.Tensor, *, gain_O: torch.Tensor | None) -> torch.Tensor:
    """Each row times its gain."""
    return rows if gain_O is None else rows * gain_O.to(rows.dtype).unsqueeze(1)


def _dense(weight: torch.Tensor | Packed, *, dtype: torch.dtype) -> torch.Tensor:
    return weight.dense(dtype) if isinstance(weight, Packed) else weight
