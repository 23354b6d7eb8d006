# SPDX-License-Identifier: Apache-2.0
"""RMSNorm and LayerNorm for megatron-core's local spec, with the arithmetic of transformers.

megatron-core's own fallback refuses sequence parallelism. Here the weights are marked, so that
finalize_model_grads sums their gradients over the tensor-parallel ranks, each of which saw another
part of the sequence.

Shapes: D hidden size, R rows of all that comes before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer import TransformerConfig

from megacpt.families.architecture import Norms

ROWS = 512
"""Rows worked on at once: their float32 copies stay in a CPU's cache."""


class Norm(torch.nn.Module):
    """x / rms(x) in float32, scaled as the family scales it."""

    norms = Norms()

    def __init__(
        self, config: TransformerConfig, *, hidden_size: int, eps: float = 1e-6, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self._parameter(torch.ones(hidden_size), config=config)
        if self.norms.bias:
            self.bias = self._parameter(torch.zeros(hidden_size), config=config)

    @staticmethod
    def _parameter(first: torch.Tensor, *, config: TransformerConfig) -> torch.nn.Parameter:
        parameter = torch.nn.Parameter(first.to(config.params_dtype))
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias_D = self.bias if self.norms.bias else None
        return normed(x, weight_D=self.weight, bias_D=bias_D, eps=self.eps, norms=self.norms)


def norm_class(norms: Norms) -> type[Norm]:
    """megatron-core builds it from config, size and epsilon alone."""
    return type("Norm", (Norm,), {"norms": norms})


def normed(
    x: torch.Tensor,
    *,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None = None,
    eps: float,
    norms: Norms,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """``group``: ranks that hold the other parts of each row."""
    how = _How(norms=norms, eps=eps, group=group, parts=dist.get_world_size(group) if group else 1)
    out: torch.Tensor = _Normed.apply(x, weight_D, bias_D, how)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    norms: Norms
    eps: float
    group: dist.ProcessGroup | None
    parts: int

    def mean(self, wide_RD: torch.Tensor) -> torch.Tensor:
        """Over whole rows."""
        mean_R1 = wide_RD.mean(dim=-1, keepdim=True)
        if self.parts > 1:
            dist.all_reduce(mean_R1, group=self.group)
            mean_R1 /= self.parts
        return mean_R1

    def wide(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Float32, without the mean where the family takes it away."""
        wide_RD = x_RD.float()
        return wide_RD - self.mean(wide_RD) if self.norms.centred else wide_RD

    def scale(self, weight_D: torch.Tensor) -> torch.Tensor:
        wide_D = weight_D.float() if self.norms.scaled_wide else weight_D
        return wide_D + 1.0 if self.norms.plus_one else wide_D

    def tiles(self, x_RD: torch.Tensor) -> list[slice]:
        """All rows at once where ranks wait for each other, or a kernel is started for each."""
        size = ROWS if self.parts == 1 and x_RD.device.type == "cpu" else max(len(x_RD), 1)
        return [slice(start, start + size) for start in range(0, x_RD.shape[0], size)]


class _Normed(torch.autograd.Function):
    """Keeps its input and one number a row for the backward pass, where torch would keep three
    float32 copies of it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        how: _How,
    ) -> torch.Tensor:
        x_RD, scale_D = x.reshape(-1, x.shape[-1]), how.scale(weight_D)
        out_RD = torch.empty_like(x_RD)
        inverse_R1 = torch.empty(x_RD.shape[0], 1, dtype=torch.float32, device=x.device)
        for rows in how.tiles(x_RD):
            wide = how.wide(x_RD[rows])
            torch.rsqrt(how.mean(wide.pow(2)) + how.eps, out=inverse_R1[rows])
            normed = wide * inverse_R1[rows]
            if not how.norms.scaled_wide:
                normed = normed.to(x.dtype)
            if bias_D is None:
                torch.mul(normed, scale_D, out=out_RD[rows])
            else:
                out_RD[rows] = normed * scale_D + bias_D
        ctx.save_for_backward(x_RD, weight_D, inverse_R1)
        ctx.how, ctx.has_bias = how, bias_D is not None
        return out_RD.view_as(x)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_RD, weight_D, inverse_R1 = ctx.saved_tensors
        how, scale_D = ctx.how, ctx.how.scale(weight_D)
        d_out_RD = d_out.reshape(x_RD.shape)
        d_x_RD = torch.empty_like(x_RD)
        d_weight_D = torch.zeros_like(weight_D, dtype=torch.float32)
        d_bias_D = torch.zeros_like(d_weight_D) if ctx.has_bias else None
        for rows in how.tiles(x_RD):
            inverse = inverse_R1[rows]
            normed = how.wide(x_RD[rows]) * inverse
            d_wide = d_out_RD[rows].float()
            d_weight_D += (d_wide * normed).sum(dim=0)
            if d_bias_D is not None:
                d_bias_D += d_wide.sum(dim=0)
            d_normed = d_wide * scale_D
            if how.norms.centred:
                d_normed -= how.mean(d_normed)
            along = how.mean(d_normed * normed)
            d_x_RD[rows] = d_normed.sub_(normed.mul_(along)).mul_(inverse)
        d_bias = None if d_bias_D is None else d_bias_D.to(weight_D.dtype)
        return d_x_RD.view_as(d_out), d_weight_D.to(weight_D.dtype), d_bias, None
