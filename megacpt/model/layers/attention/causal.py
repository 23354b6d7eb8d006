# SPDX-License-Identifier: Apache-2.0
"""Core attention: causal, grouped queries, no S x S matrix. Matrix products in
bf16 on a CPU, where torch's scaled_dot_product_attention is slow; that otherwise.

With a document mask the rows of a microbatch lie end to end as one sequence of T = B * S tokens
that is cut at every document (megacpt.model.forward). megacpt hands megatron-core the bounds as
PackedSeqParams, its form for packed sequences: it restarts the rotary positions at each document
and passes the bounds through every stage to the core attention, on GPUs Transformer Engine's.

A layer may have a window: of all tokens before it a token sees the last ones alone. Its queries are
taken a window at a time, so that no more keys are looked at than twice as many.

With context parallelism each rank has the queries of two chunks of every sample. Transformer
Engine sends keys and values around; here all ranks gather them, and each chunk sees its prefix.

Shapes: S sequence, B batch, T all tokens, L one document, C one chunk, P a chunk's prefix and
itself, H query heads and K key-value heads of this rank, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch.nn.functional import scaled_dot_product_attention

from megacpt.model.layers.attention import context_parallel
from megacpt.model.layers.attention.products import causal_products


def packed_documents(bounds: torch.Tensor, *, longest: int) -> PackedSeqParams:
    """``bounds``: 0, the start of every further document, T (int32).

    ``longest`` is exact, not a bound: where it equals T, megatron-core's plain rotary code takes
    the positions to run through all documents.
    """
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


class View(Protocol):
    """Another answer to which tokens are before a token than their order in the row."""

    @property
    def positions_T(self) -> torch.Tensor:
        """Where each token of the row stands in its own text; rotary positions follow it."""
        ...

    def attend(
        self,
        attention: CausalAttention,
        *,
        q_T1HD: torch.Tensor,
        k_T1KD: torch.Tensor,
        v_T1KD: torch.Tensor,
    ) -> torch.Tensor:
        """out_T1(HD), for one layer's ``attention``."""
        ...


class CausalAttention(torch.nn.Module):
    """Takes the place of megatron-core's DotProductAttention; every token sees those before it."""

    view: View | None = None
    """Set while it holds (megacpt.model.viewed), else None."""
    takes_any_mask = True
    """Whether scores are masked and summed by torch's kernel, and nothing more."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        layer_number: int,
        softmax_scale: float | None = None,
        **_: object,
    ) -> None:
        super().__init__()
        assert config.attention_dropout == 0.0
        self.is_cut = config.context_parallel_size > 1
        self.softmax_scale = softmax_scale
        self.layer_number = layer_number
        has_window = is_layer_window_attention(
            config.window_size, config.window_attn_skip_freq, layer_number
        )
        self.window = config.window_size[0] + 1 if has_window else None

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """q_SBHD to out_SB(HD), or packed q_THD to out_T(HD).

        The mask is always causal, so ``attention_mask`` may be None and is not read.
        """
        assert attention_bias is None
        if self.view is not None:
            return self.view.attend(self, q_T1HD=q, k_T1KD=k, v_T1KD=v)
        if packed_seq_params is None:
            return (
                self._causal_in_chunks(q, k=k, v=v)
                if self.is_cut
                else self.causal(q, k_SBKD=k, v_SBKD=v)
            )
        assert not self.is_cut
        return self._causal_in_documents(q, k_TKD=k, v_TKD=v, bounds=packed_seq_params.cu_seqlens_q)

    def _causal_in_documents(
        self,
        q_THD: torch.Tensor,
        *,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        bounds: torch.Tensor,
    ) -> torch.Tensor:
        """Document by document: the sum of L^2 instead of S^2, and no bit depends on another."""
        lengths = bounds.diff().tolist()
        parts = zip(*(torch.split(x, lengths) for x in (q_THD, k_TKD, v_TKD)), strict=True)
        outs = [
            self.causal(q.unsqueeze(1), k_SBKD=k.unsqueeze(1), v_SBKD=v.unsqueeze(1))
            for q, k, v in parts
        ]
        return torch.cat(outs).squeeze(1)

    def _causal_in_chunks(
        self, q: torch.Tensor, *, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """The queries of this rank's chunks, in the order of context_parallel."""
        k_SBKD, v_SBKD = (context_parallel.gather_S(x) for x in (k, v))
        outs = []
        for number, q_CBHD in zip(context_parallel.own_chunks(), q.chunk(2), strict=True):
            end = (number + 1) * len(q_CBHD)
            outs.append(self.causal(q_CBHD, k_SBKD=k_SBKD[:end], v_SBKD=v_SBKD[:end]))
        return torch.cat(outs)

    def causal(
        self, q_SBHD: torch.Tensor, *, k_SBKD: torch.Tensor, v_SBKD: torch.Tensor
    ) -> torch.Tensor:
        """Queries are the last of the keys' positions, most often all of them."""
        before, window = len(k_SBKD) - len(q_SBHD), self.window
        if window is None or window >= len(k_SBKD):
            return self._attention(q_SBHD, k_SBKD=k_SBKD, v_SBKD=v_SBKD)
        outs = []
        for start in range(0, len(q_SBHD), window):
            q_CBHD = q_SBHD[start : start + window]
            seen = slice(max(before + start - window + 1, 0), before + start + len(q_CBHD))
            outs.append(self._attention(q_CBHD, k_SBKD=k_SBKD[seen], v_SBKD=v_SBKD[seen]))
        return torch.cat(outs)

    def of_last(
        self,
        q_B1HD: torch.Tensor,
        *,
        k_BKPD: torch.Tensor,
        v_BKPD: torch.Tensor,
        lengths_B: torch.Tensor,
    ) -> torch.Tensor:
        """out_B1(HD) of one query a text, that of its last token; ``lengths_B`` of the keys are its
        own."""
        if not self.takes_any_mask:
            texts = zip(q_B1HD, k_BKPD, v_BKPD, lengths_B.tolist(), strict=True)
            outs = [
                self.causal(
                    q_1HD.unsqueeze(0),
                    k_SBKD=k_KPD[:, :length].transpose(0, 1).unsqueeze(1),
                    v_SBKD=v_KPD[:, :length].transpose(0, 1).unsqueeze(1),
                )
                for q_1HD, k_KPD, v_KPD, length in texts
            ]
            return torch.cat(outs)
        (B, _, H, D), K = q_B1HD.shape, k_BKPD.shape[1]
        places_P = torch.arange(k_BKPD.shape[2], device=k_BKPD.device)
        mask_BP = places_P < lengths_B.unsqueeze(1)
        if self.window is not None:
            mask_BP &= places_P >= lengths_B.unsqueeze(1) - self.window
        # The query heads of one key-value head are its queries: no key is copied for them.
        out_BKGD = scaled_dot_product_attention(
            q_B1HD.view(B, K, H // K, D),
            k_BKPD,
            v_BKPD,
            attn_mask=mask_BP[:, None, None, :],
            scale=self.softmax_scale,
        )
        return out_BKGD.reshape(B, 1, H * D)

    def _attention(
        self, q_SBHD: torch.Tensor, *, k_SBKD: torch.Tensor, v_SBKD: torch.Tensor
    ) -> torch.Tensor:
        queries, keys = len(q_SBHD), len(k_SBKD)
        has_window = self.window is not None and self.window < keys
        if q_SBHD.dtype is torch.bfloat16 and q_SBHD.device.type == "cpu" and not has_window:
            out_SBHD = causal_products(
                q_SBHD, k_PBKD=k_SBKD, v_PBKD=v_SBKD, scale=self.softmax_scale
            )
            return out_SBHD.flatten(2)
        out_BHSD = scaled_dot_product_attention(
            q_SBHD.permute(1, 2, 0, 3),
            k_SBKD.permute(1, 2, 0, 3),
            v_SBKD.permute(1, 2, 0, 3),
            # torch's own causal mask lets the first query see the first key alone.
            attn_mask=None
            if queries == keys
            else causal_mask(queries, keys=keys, window=self.window, device=q_SBHD.device),
            is_causal=queries == keys,
            scale=self.softmax_scale,
            enable_gqa=k_SBKD.shape[2] != q_SBHD.shape[2],
        )
        return out_BHSD.permute(2, 0, 1, 3).flatten(2)


@lru_cache(maxsize=16)
def causal_mask(
    queries: int, *, keys: int, window: int | None, device: torch.device
) -> torch.Tensor:
    """True where the query, one of the last of all positions, may see the key."""
    mask_CP = torch.ones(queries, keys, dtype=torch.bool, device=device)
    before = keys - queries
    mask_CP = mask_CP.tril(diagonal=before)
    return mask_CP if window is None else mask_CP.triu(diagonal=before - window + 1)
