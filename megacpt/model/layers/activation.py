# SPDX-License-Identifier: Apache-2.0
"""SiLU gate of the MLP on a CPU, without copies: megatron-core's plain one concatenates halves.

Shapes: R rows of all that comes before it, F both halves of this rank's MLP width, side by side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu

ROWS = 256
"""Rows worked on at once: what lies between two operations stays in a CPU's cache."""


class SwiGlu(torch.nn.Module):
    """silu(gate) * up (https://arxiv.org/abs/2002.05202), keeping only its input for backward.

    Takes the place where megatron-core would use Transformer Engine's activation.
    """

    def __init__(self, config: object) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _SwiGlu.apply(x)  # type: ignore[no-untyped-call]
        return out

    def sharded_state_dict(self, *_: object, **__: object) -> dict[str, object]:
        """Nothing to save, but megatron-core asks every module of an MLP."""
        return {}


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        x_RF, d_out_RF = x.flatten(0, -2), d_out.flatten(0, -2)
        d_x_RF = torch.empty_like(x_RF)
        for start in range(0, x_RF.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            gate, up = x_RF[rows].chunk(2, dim=-1)
            d_gate, d_up = d_x_RF[rows].chunk(2, dim=-1)
            torch.mul(d_out_RF[rows], silu(gate), out=d_up)
            d_gate.copy_(torch.ops.aten.silu_backward(d_out_RF[rows] * up, gate))
        return d_x_RF.view_as(x)
