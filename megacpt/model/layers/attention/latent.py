# SPDX-License-Identifier: Apache-2.0
"""DeepSeek's attention: keys and values, often queries too, made from a few numbers a token.

megacpt has its own because megatron-core's does not run without Transformer Engine, has norms of
another epsilon, and, of plain layers, gives wrong gradients where tensor parallelism meets sequence
parallelism (by 14 to 27 %, 0.16.1 and 0.19.2). The small projections are whole on every rank here.

Shapes: S sequence (R of it on this rank with sequence parallelism), B batch, D hidden size, H heads
of this rank, K the part of a head's query and key that is not rotated, P the one that is, V value.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import (
    checkpoint,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from torch.nn.functional import pad

from megacpt.families.architecture import Architecture, Latent
from megacpt.model.layers.modules import Modules

INNER_EPS = 1e-6
"""Of the norms of what is made from hidden states, whatever other norms have."""


def latent_attention(architecture: Architecture, *, modules: Modules) -> ModuleSpec:
    """The specification of a layer's attention."""
    params = {
        "latent": architecture.latent,
        "modules": modules,
        "bias": architecture.attention_bias,
        "turning_scale": architecture.rope.attention_factor**2,
    }
    return ModuleSpec(module=LatentAttention, params=params)


class LatentAttention(MegatronModule):  # type: ignore[misc]
    """Takes the place of megatron-core's SelfAttention."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        layer_number: int,
        pg_collection: Any,
        latent: Latent,
        modules: Modules,
        bias: bool,
        turning_scale: float,
        cp_comm_type: str | None = None,
        **_: object,
    ) -> None:
        """``bias``: of what is made from hidden states, and of the output; ``turning_scale``: of
        queries times keys, in the channels that turn."""
        super().__init__(config=config)
        self.latent, self.classes = latent, modules
        self.groups, self.turning_scale = pg_collection, turning_scale
        heads, rotated = config.num_attention_heads, config.kv_channels
        query_size = heads * (latent.plain_dim + rotated)
        if latent.query_rank is None:
            self.linear_q_proj = self._cut(config.hidden_size, out=query_size)
        else:
            self.linear_q_down_proj = Replicated(config, out=latent.query_rank, bias=bias)
            self.q_layernorm = self._norm(latent.query_rank)
            self.linear_q_up_proj = self._cut(latent.query_rank, out=query_size)
        self.linear_kv_down_proj = Replicated(config, out=latent.kv_rank + rotated, bias=bias)
        self.kv_layernorm = self._norm(latent.kv_rank)
        self.linear_kv_up_proj = self._cut(
            latent.kv_rank, out=heads * (latent.plain_dim + latent.value_dim)
        )
        self.core_attention = self._core(layer_number, cp_comm_type=cp_comm_type)
        self.linear_proj = modules.row(
            heads * latent.value_dim,
            config.hidden_size,
            config=config,
            init_method=config.output_layer_init_method,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=True,
            is_expert=False,
            tp_group=self.groups.tp,
        )
        recomputes = config.recompute_granularity == "selective"
        self.recomputes = recomputes and "core_attn" in config.recompute_modules

    def _cut(self, size: int, *, out: int) -> Any:
        return self.classes.column(
            size,
            out,
            config=self.config,
            init_method=self.config.init_method,
            bias=False,
            gather_output=False,
            skip_bias_add=False,
            is_expert=False,
            tp_group=self.groups.tp,
        )

    def _norm(self, size: int) -> Any:
        return self.classes.norm(config=self.config, hidden_size=size, eps=INNER_EPS)

    def _core(self, layer_number: int, *, cp_comm_type: str | None) -> Any:
        return self.classes.core_attention(
            config=self.config,
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.causal,
            attention_type="self",
            softmax_scale=self.config.softmax_scale,
            k_channels=self.latent.plain_dim + self.config.kv_channels,
            v_channels=self.latent.value_dim,
            cp_comm_type=cp_comm_type,
            pg_collection=self.groups,
        )

    def forward(
        self,
        hidden_RBD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        rotary_pos_emb: torch.Tensor,
        packed_seq_params: PackedSeqParams | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output and its bias, which the layer adds."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self._attend(q, k=k, v=v, packed=packed_seq_params)

        rope = _Rope(
            angles=rotary_pos_emb,
            config=self.config,
            bounds=None if packed_seq_params is None else packed_seq_params.cu_seqlens_q,
            group=self.groups.cp,
        )
        qkv = [self._queries(hidden_RBD, rope=rope), *self._keys_and_values(hidden_RBD, rope=rope)]
        if packed_seq_params is not None:
            qkv = [x.squeeze(1) for x in qkv]
        again = self.recomputes and self.training
        out = checkpoint(attend, False, *qkv) if again else attend(*qkv)
        output, bias = self.linear_proj(out if packed_seq_params is None else out.unsqueeze(1))
        return output, bias

    def _attend(
        self,
        q: torch.Tensor,
        *,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: PackedSeqParams | None,
    ) -> torch.Tensor:
        """Of packed documents, Transformer Engine's kernels want values as wide as keys: zeros fill
        them up."""
        core, width = self.core_attention, v.shape[-1]
        if self.classes.of_engine:
            missing = 0 if packed is None else max(k.shape[-1] - width, 0)
            v = pad(v, (0, missing)).contiguous()
            core.hidden_size_per_attention_head_v = v.shape[-1]
        out: torch.Tensor = core(
            q, k, v, None, attn_mask_type=AttnMaskType.causal, packed_seq_params=packed
        )
        if v.shape[-1] == width:
            return out
        return out.view(*out.shape[:-1], -1, v.shape[-1])[..., :width].flatten(-2)

    def _queries(self, hidden_RBD: torch.Tensor, *, rope: _Rope) -> torch.Tensor:
        if self.latent.query_rank is None:
            q, _ = self.linear_q_proj(hidden_RBD)
        else:
            q, _ = self.linear_q_up_proj(self.q_layernorm(self.linear_q_down_proj(hidden_RBD)))
        q_SBHX = q.unflatten(-1, (-1, self.latent.plain_dim + self.config.kv_channels))
        plain_SBHK, rotated_SBHP = q_SBHX.split(
            [self.latent.plain_dim, self.config.kv_channels], dim=-1
        )
        return torch.cat((plain_SBHK, rope(rotated_SBHP * self.turning_scale)), dim=-1)

    def _keys_and_values(
        self, hidden_RBD: torch.Tensor, *, rope: _Rope
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.latent
        both = self.linear_kv_down_proj(hidden_RBD)
        latent_RBL, shared_RBP = both.split([latent.kv_rank, self.config.kv_channels], dim=-1)
        kv, _ = self.linear_kv_up_proj(self.kv_layernorm(latent_RBL))
        kv_SBHX = kv.unflatten(-1, (-1, latent.plain_dim + latent.value_dim))
        plain_SBHK, v_SBHV = kv_SBHX.split([latent.plain_dim, latent.value_dim], dim=-1)
        rotated_SB1P = rope(self._for_all_heads(shared_RBP).unsqueeze(2))
        rotated_SBHP = rotated_SB1P.expand(-1, -1, plain_SBHK.shape[2], -1)
        return torch.cat((plain_SBHK, rotated_SBHP), dim=-1), v_SBHV

    def _for_all_heads(self, shared_RBP: torch.Tensor) -> torch.Tensor:
        """The whole sequence; gradients are summed over the ranks, each of which has some heads."""
        if self.config.sequence_parallel:
            whole = gather_from_sequence_parallel_region(shared_RBP, group=self.groups.tp)
        else:
            whole = copy_to_tensor_model_parallel_region(shared_RBP, group=self.groups.tp)
        gathered_SBP: torch.Tensor = whole
        return gathered_SBP


class Replicated(torch.nn.Linear):
    """The same on all tensor-parallel ranks.

    With sequence parallelism each sees a part of the sequence, so that its gradients are summed.
    """

    def __init__(self, config: TransformerConfig, *, out: int, bias: bool) -> None:
        super().__init__(config.hidden_size, out, bias=bias, dtype=config.params_dtype)
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class _Rope:
    """Rotates one tensor by the positions of a microbatch."""

    def __init__(
        self,
        *,
        angles: torch.Tensor,
        config: TransformerConfig,
        bounds: torch.Tensor | None,
        group: Any,
    ) -> None:
        """``bounds``: of packed documents."""
        self.angles, self.config, self.bounds, self.group = angles, config, bounds, group

    def __call__(self, x_SBHP: torch.Tensor) -> torch.Tensor:
        x = x_SBHP if self.bounds is None else x_SBHP.squeeze(1)
        rotated: torch.Tensor = apply_rotary_pos_emb(
            x, self.angles, config=self.config, cu_seqlens=self.bounds, cp_group=self.group
        )
        return rotated if self.bounds is None else rotated.unsqueeze(1)
