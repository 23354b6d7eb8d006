# SPDX-License-Identifier: Apache-2.0
"""Attention of models with several kinds of rotary positions, or that scale or norm what turns.

megatron-core hands the angles of one kind to all layers. Here they are those of all kinds, side by
side (megacpt.model.layers.attention.rope), and each layer takes its own.

A rope's attention factor multiplies the channels of query and key that turn. Turning is linear, so
the query takes it for both, before it turns: fused kernels of the rotation know no factor.

Shapes: S sequence of this rank (all tokens of packed documents), D head size, A the angles of all
kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.attention import SelfAttention

from megacpt.families.architecture import Architecture, QueryGrowth
from megacpt.families.rope import LongRopeScaling, Rope
from megacpt.model.layers.attention import context_parallel
from megacpt.model.layers.attention.rope import table_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What one layer does."""

    angles: slice
    """Its own, of those of all kinds."""
    long_angles: slice | None
    """In documents longer than ``original_max_positions``."""
    original_max_positions: int
    factor: float
    """Of queries times keys, in the channels that turn."""
    growth: QueryGrowth | None
    norm_eps: float | None
    """Of the norm of rotated queries and keys; ``None``: they pass none."""

    def own(self, angles_S11A: torch.Tensor, *, packed: PackedSeqParams | None) -> torch.Tensor:
        """By the length of the sample, or by that of each document."""
        # Fused kernels take what lies in one piece.
        short = angles_S11A[..., self.angles].contiguous()
        if self.long_angles is None:
            return short
        long = angles_S11A[..., self.long_angles]
        if packed is None:
            length = len(angles_S11A) * context_parallel.size()
            return long if length > self.original_max_positions else short
        # One row a token: megatron-core takes as many rows as tokens for rows of each.
        lengths = packed.cu_seqlens_q.diff().tolist()
        return torch.cat(
            [(long if n > self.original_max_positions else short)[:n] for n in lengths]
        )

    def query_scale(
        self, angles_S11A: torch.Tensor, *, packed: PackedSeqParams | None, head_dim: int
    ) -> torch.Tensor | None:
        """Shape (D) or (S, 1, 1, D); ``None``: one."""
        if self.factor == 1.0 and self.growth is None:
            return None
        turning = self.angles.stop - self.angles.start
        scale = torch.ones(head_dim, device=angles_S11A.device)
        scale[:turning] = self.factor
        if self.growth is None:
            return scale
        rows, growth = len(angles_S11A), self.growth
        positions_S = growth.first + _positions(rows, packed=packed, device=angles_S11A.device)
        times_S = torch.log1p(torch.floor(positions_S / growth.original_max_positions))
        return scale * (1 + growth.rate * times_S)[:, None, None, None]


def rotation_of(architecture: Architecture, *, layer: int) -> Rotation | None:
    """``None`` where megatron-core's own attention does the same."""
    keys = table_keys(architecture)
    widths = [rope.num_channels(architecture.head_dim) for rope, _ in keys]
    slices = [slice(a, b) for a, b in pairwise(accumulate(widths, initial=0))]
    places = dict(zip(keys, slices, strict=True))
    rope = architecture.rope_of(layer)
    factor = 1.0 if rope is None else rope.attention_factor**2
    growth = architecture.growth_of(layer)
    norm_eps: float | None = None
    if architecture.rotated_qk_norm and rope is not None:
        # The norm takes the factor away, but beside its epsilon.
        factor, norm_eps = 1.0, architecture.norm_eps / factor
    if len(keys) == 1 and factor == 1.0 and growth is None and norm_eps is None:
        return None
    known = rope or keys[0][0]
    return Rotation(
        angles=places[known, False],
        long_angles=places.get((known, True)),
        original_max_positions=_original(known),
        factor=factor,
        growth=growth,
        norm_eps=norm_eps,
    )


def _original(rope: Rope) -> int:
    return rope.scaling.original_max_positions if isinstance(rope.scaling, LongRopeScaling) else 0


class RotatedAttention(SelfAttention):  # type: ignore[misc]
    """megatron-core's, with a rotation of its own."""

    def __init__(self, *args: Any, rotation: Rotation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rotation = rotation
        if rotation.norm_eps is not None:
            # A rotation changes no length: the norm may as well come before it.
            self.q_layernorm = self.k_layernorm = torch.nn.RMSNorm(
                self.config.kv_channels, eps=rotation.norm_eps, elementwise_affine=False
            )
        self._scale: torch.Tensor | None = None

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        rotary_pos_emb: torch.Tensor,
        packed_seq_params: PackedSeqParams | None = None,
        **kwargs: Any,
    ) -> Any:
        self._scale = self.rotation.query_scale(
            rotary_pos_emb, packed=packed_seq_params, head_dim=self.config.kv_channels
        )
        return super().forward(
            hidden_states,
            *args,
            rotary_pos_emb=self.rotation.own(rotary_pos_emb, packed=packed_seq_params),
            packed_seq_params=packed_seq_params,
            **kwargs,
        )

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        query, *others = super().get_query_key_value_tensors(*args, **kwargs)
        if self._scale is not None:
            query = (query * self._scale).to(query.dtype)
        return (query, *others)


def _positions(rows: int, *, packed: PackedSeqParams | None, device: torch.device) -> torch.Tensor:
    """Of this rank's tokens within their document or sample."""
    if packed is None:
        whole = torch.arange(rows * context_parallel.size(), device=device)
        return context_parallel.own_part(whole, dim=0)
    lengths = packed.cu_seqlens_q.diff().tolist()
    return torch.cat([torch.arange(n, device=device) for n in lengths])
