# SPDX-License-Identifier: Apache-2.0
"""Causal attention in bf16 as matrix products of some queries at a time.

torch's own kernel for CPUs multiplies small tiles, at a fifth of the speed that its matrix product
has; the rest of a step being products already, attention would be a third of it. Here a block's
queries of all heads that share a key-value head are the rows of one product with the keys up to the
block's last. Scores are rounded to bf16, as transformers' plain attention does, and made again in
the backward pass, so that never more than those of one block are held.

Shapes: S queries, P the keys that they may see, B batch, H query heads and K key-value heads of
this rank, D head size; N is B * K, X a block's queries times the query heads of one key-value head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

ROWS = 128
"""Queries of a block: the fewer, the fewer scores of keys that they cannot see."""


def causal_products(
    q_SBHD: torch.Tensor, *, k_PBKD: torch.Tensor, v_PBKD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """To out_SBHD. The queries are at the last of the keys' positions."""
    scale = q_SBHD.shape[-1] ** -0.5 if scale is None else scale
    out: torch.Tensor = _Attention.apply(q_SBHD, k_PBKD, v_PBKD, scale)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_SBHD: torch.Tensor,
        k_PBKD: torch.Tensor,
        v_PBKD: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        shape, heads = q_SBHD.shape, k_PBKD.shape[2]
        q, k, v = (_by_head(x, heads=heads) for x in (q_SBHD, k_PBKD, v_PBKD))
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for block in _blocks(q, k=k, queries=shape[0]):
            shares_NXP = block.shares(q, k=k, scale=scale)
            torch.bmm(shares_NXP, v[:, block.keys], out=out[:, block.rows])
        ctx.save_for_backward(q, k, v)
        ctx.shape, ctx.scale = shape, scale
        return _by_position(out, shape=shape)

    @staticmethod
    def backward(ctx: Any, d_out_SBHD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        d_out = _by_head(d_out_SBHD, heads=len(k) // ctx.shape[1])
        d_q = torch.empty_like(q)
        d_k, d_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for block in _blocks(q, k=k, queries=ctx.shape[0]):
            rows, keys = block.rows, block.keys
            shares_NXP = block.shares(q, k=k, scale=ctx.scale)
            d_v[:, keys] += torch.bmm(shares_NXP.mT, d_out[:, rows])
            d_shares_NXP = torch.bmm(d_out[:, rows], v[:, keys].mT)
            d_scores_NXP = torch.ops.aten._softmax_backward_data(
                d_shares_NXP, shares_NXP, -1, q.dtype
            )
            d_q[:, rows] = _product(d_scores_NXP, by=k[:, keys], scale=ctx.scale)
            d_k[:, keys] += _product(d_scores_NXP.mT, by=q[:, rows], scale=ctx.scale)
        (_, B, *_), P = ctx.shape, k.shape[1]
        d_k_PBKD, d_v_PBKD = (
            _by_position(x.to(q.dtype), shape=(P, B, len(x) // B)) for x in (d_k, d_v)
        )
        return _by_position(d_q, shape=ctx.shape), d_k_PBKD, d_v_PBKD, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    rows: slice
    keys: slice
    mask_XC: torch.Tensor
    """What is added to the scores of the last keys, those of the block's own positions."""

    def shares(self, q: torch.Tensor, *, k: torch.Tensor, scale: float) -> torch.Tensor:
        scores_NXP = _product(q[:, self.rows], by=k[:, self.keys].mT, scale=scale)
        scores_NXP[..., -self.mask_XC.shape[1] :] += self.mask_XC
        return scores_NXP.softmax(dim=-1)


def _blocks(q: torch.Tensor, *, k: torch.Tensor, queries: int) -> Iterator[_Block]:
    repeats, before = q.shape[1] // queries, k.shape[1] - queries
    for start in range(0, queries, ROWS):
        stop = min(start + ROWS, queries)
        yield _Block(
            rows=slice(start * repeats, stop * repeats),
            keys=slice(before + stop),
            mask_XC=_later_keys(stop - start, repeats=repeats, dtype=q.dtype),
        )


@lru_cache(maxsize=16)
def _later_keys(queries: int, *, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """Minus infinity for them, zero for others."""
    mask_CC = torch.full((queries, queries), -torch.inf, dtype=dtype).triu(diagonal=1)
    return mask_CC.repeat_interleave(repeats, dim=0)


def _product(left: torch.Tensor, *, by: torch.Tensor, scale: float) -> torch.Tensor:
    """Scaled before it is rounded."""
    nothing = left.new_empty(1, 1, 1)
    return torch.baddbmm(nothing, left, by, beta=0, alpha=scale)


def _by_head(x_SBHD: torch.Tensor, *, heads: int) -> torch.Tensor:
    """As N matrices, in whose rows the query heads of one key-value head lie side by side."""
    S, B, H, D = x_SBHD.shape
    grouped = x_SBHD.view(S, B, heads, H // heads, D).permute(1, 2, 0, 3, 4)
    return grouped.reshape(B * heads, -1, D)


def _by_position(x: torch.Tensor, *, shape: Sequence[int]) -> torch.Tensor:
    """The inverse, of ``shape`` (S, B, H, ...)."""
    positions, samples, heads = shape[:3]
    grouped = x.view(samples, len(x) // samples, positions, -1, x.shape[-1])
    return grouped.permute(2, 0, 1, 3, 4).reshape(positions, samples, heads, -1)
