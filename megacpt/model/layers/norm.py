# SPDX-License-Identifier: Apache-2.0
"""RMSNorm for megatron-core's local spec, with the arithmetic of transformers' LlamaRMSNorm.

megatron-core's own fallback refuses sequence parallelism. Here the scale is marked, so that
finalize_model_grads sums its gradient over the tensor-parallel ranks, each of which saw another
part of the sequence.

Shapes: D hidden size, R rows of all that comes before it.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

ROWS = 512
"""Rows worked on at once: their float32 copies stay in a CPU's cache."""


class RMSNorm(torch.nn.Module):
    """x / rms(x) in float32, rounded to the type of x, times the scale."""

    def __init__(
        self, config: TransformerConfig, *, hidden_size: int, eps: float = 1e-6, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one number a row for the backward pass, where torch would keep three
    float32 copies of it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        x_RD = x.reshape(-1, x.shape[-1])
        out_RD = torch.empty_like(x_RD)
        inverse_R1 = torch.empty(x_RD.shape[0], 1, dtype=torch.float32, device=x.device)
        for rows in _tiles(x_RD):
            wide = x_RD[rows].float()
            mean_square = wide.pow(2).mean(dim=-1, keepdim=True)
            torch.rsqrt(mean_square + eps, out=inverse_R1[rows])
            torch.mul((wide * inverse_R1[rows]).to(x.dtype), weight_D, out=out_RD[rows])
        ctx.save_for_backward(x_RD, weight_D, inverse_R1)
        return out_RD.view_as(x)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x_RD, weight_D, inverse_R1 = ctx.saved_tensors
        d_out_RD = d_out.reshape(x_RD.shape)
        d_x_RD = torch.empty_like(x_RD)
        d_weight_D = torch.zeros_like(weight_D, dtype=torch.float32)
        for rows in _tiles(x_RD):
            inverse = inverse_R1[rows]
            normed = x_RD[rows].float() * inverse
            d_wide = d_out_RD[rows].float()
            d_weight_D += (d_wide * normed).sum(dim=0)
            d_normed = d_wide * weight_D
            along = (d_normed * normed).mean(dim=-1, keepdim=True)
            d_x_RD[rows] = d_normed.sub_(normed.mul_(along)).mul_(inverse)
        return d_x_RD.view_as(d_out), d_weight_D.to(weight_D.dtype), None


def _tiles(x_RD: torch.Tensor) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, x_RD.shape[0], ROWS)]
