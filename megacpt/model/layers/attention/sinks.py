# SPDX-License-Identifier: Apache-2.0
"""Core attention with a sink: each head's softmax has one term more, of a learned score, whose
value is nothing, so that the shares of the tokens sum to less than one (gpt-oss).

torch's kernel gives beside its result the logarithm of the sum that it has divided by. With the
sink's term in that sum the result is smaller by one factor a query, and the kernel's own backward
pass, told of the larger sum and the smaller result, computes the gradients of just that softmax.

Shapes: S queries, P the keys that they may see, B batch, H query heads and K key-value heads of
this rank, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig

from megacpt.model.layers.attention.causal import CausalAttention, causal_mask
from megacpt.model.layers.cut import CutByHeads


class SinkAttention(CutByHeads, CausalAttention):
    """The scores are called as in megatron-core and Transformer Engine."""

    takes_any_mask = False

    def __init__(self, config: TransformerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        sinks_H = torch.zeros(config.num_attention_heads // ranks, dtype=config.params_dtype)
        self.softmax_offset = torch.nn.Parameter(sinks_H)

    def _attention(
        self, q_SBHD: torch.Tensor, *, k_SBKD: torch.Tensor, v_SBKD: torch.Tensor
    ) -> torch.Tensor:
        queries, keys = len(q_SBHD), len(k_SBKD)
        repeats = q_SBHD.shape[2] // k_SBKD.shape[2]
        k_BHPD, v_BHPD = (
            x.permute(1, 2, 0, 3).repeat_interleave(repeats, dim=1) for x in (k_SBKD, v_SBKD)
        )
        mask_SP = None
        if queries != keys:
            is_seen = causal_mask(queries, keys=keys, window=self.window, device=q_SBHD.device)
            mask_SP = torch.zeros_like(is_seen, dtype=q_SBHD.dtype)
            mask_SP.masked_fill_(~is_seen, -torch.inf)
        out_BHSD: torch.Tensor = _WithSinks.apply(
            q_SBHD.permute(1, 2, 0, 3),
            k_BHPD,
            v_BHPD,
            self.softmax_offset,
            mask_SP,
            self.softmax_scale,
        )  # type: ignore[no-untyped-call]
        return out_BHSD.permute(2, 0, 1, 3).flatten(2)


class _WithSinks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHSD: torch.Tensor,
        k_BHPD: torch.Tensor,
        v_BHPD: torch.Tensor,
        sinks_H: torch.Tensor,
        mask_SP: torch.Tensor | None,
        scale: float | None,
    ) -> torch.Tensor:
        """``mask_SP``: what is added to the scores; ``None``: as many keys as queries, and each of
        these sees those up to its own."""
        how = {"is_causal": mask_SP is None, "attn_mask": mask_SP, "scale": scale}
        out_BHSD: torch.Tensor
        out_BHSD, sums_BHS = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_BHSD, k_BHPD, v_BHPD, **how
        )
        scores_H1 = sinks_H.to(sums_BHS.dtype).unsqueeze(1)
        totals_BHS = torch.logaddexp(sums_BHS, scores_H1)
        # In place: a product with float32 would be a copy of that type.
        out_BHSD.mul_((sums_BHS - totals_BHS).exp().unsqueeze(-1))
        ctx.save_for_backward(q_BHSD, k_BHPD, v_BHPD, sinks_H, mask_SP, out_BHSD, totals_BHS)
        ctx.scale = scale
        return out_BHSD

    @staticmethod
    def backward(ctx: Any, d_out_BHSD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_BHSD, k_BHPD, v_BHPD, sinks_H, mask_SP, out_BHSD, totals_BHS = ctx.saved_tensors
        if d_out_BHSD.stride(-1) != 1:
            d_out_BHSD = d_out_BHSD.contiguous()
        d_q, d_k, d_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out_BHSD,
            q_BHSD,
            k_BHPD,
            v_BHPD,
            out_BHSD,
            totals_BHS,
            0.0,
            mask_SP is None,
            attn_mask=mask_SP,
            scale=ctx.scale,
        )
        shares_BHS = (sinks_H.to(totals_BHS.dtype).unsqueeze(1) - totals_BHS).exp()
        along_BHS = (d_out_BHSD.to(totals_BHS.dtype) * out_BHSD).sum(dim=-1)
        d_sinks_H = -(shares_BHS * along_BHS).sum(dim=(0, 2))
        return d_q, d_k, d_v, d_sinks_H.to(sinks_H.dtype), None, None
