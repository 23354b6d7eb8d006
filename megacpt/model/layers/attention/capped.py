# SPDX-License-Identifier: Apache-2.0
"""Core attention whose scores are bounded before the softmax, which torch's own cannot.

Some queries are taken at a time, and their scores are made again for the backward pass, so that
never more than those of one block are held.

Shapes: S sequence, B batch, H query heads and K key-value heads of this rank, G of the former to
one of the latter, D head size, C queries of a block, P the keys that they may see.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from megacpt.model.layers.attention.causal import CausalAttention, causal_mask

ROWS = 256
"""Queries of a block."""


class CappedAttention(CausalAttention):
    cap: float
    takes_any_mask = False

    def _attention(
        self, q_SBHD: torch.Tensor, *, k_SBKD: torch.Tensor, v_SBKD: torch.Tensor
    ) -> torch.Tensor:
        before, outs = len(k_SBKD) - len(q_SBHD), []
        for start in range(0, len(q_SBHD), ROWS):
            q_CBHD = q_SBHD[start : start + ROWS]
            seen = slice(before + start + len(q_CBHD))
            out_CBX: torch.Tensor = checkpoint(
                self._block,
                q_CBHD,
                k_PBKD=k_SBKD[seen],
                v_PBKD=v_SBKD[seen],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            outs.append(out_CBX)
        return torch.cat(outs)

    def _block(
        self, q_CBHD: torch.Tensor, *, k_PBKD: torch.Tensor, v_PBKD: torch.Tensor
    ) -> torch.Tensor:
        """The queries are at the last of the keys' positions."""
        (C, B, H, D), (P, _, K, _) = q_CBHD.shape, k_PBKD.shape
        scale = D**-0.5 if self.softmax_scale is None else self.softmax_scale
        q_BKXD = q_CBHD.permute(1, 2, 0, 3).reshape(B, K, H // K * C, D)
        scores_BKXP = (q_BKXD @ k_PBKD.permute(1, 2, 3, 0)).float() * scale
        scores_BKXP = torch.tanh(scores_BKXP / self.cap) * self.cap
        mask_CP = causal_mask(C, keys=P, window=self.window, device=q_CBHD.device)
        mask_XP = mask_CP.repeat(H // K, 1)
        shares_BKXP = scores_BKXP.masked_fill(~mask_XP, -torch.inf).softmax(dim=-1)
        out_BKXD = shares_BKXP.to(v_PBKD.dtype) @ v_PBKD.permute(1, 2, 0, 3)
        return out_BKXD.view(B, H, C, D).permute(2, 0, 1, 3).flatten(2)


def capped_class(cap: float) -> type[CappedAttention]:
    """megatron-core builds it from its configuration alone."""
    return type("CappedAttention", (CappedAttention,), {"cap": cap})
