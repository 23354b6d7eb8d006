# SPDX-License-Identifier: Apache-2.0
"""Gated delta net: attention whose keys and values are one matrix a head, whatever the length.

For each value head a state M (D x E) is read by the query after each token, S_t = q_t M_t, with

    M_t = exp(g_t) M_(t-1) + k_t (beta_t (v_t - k_t exp(g_t) M_(t-1)))

(Gated Delta Networks, https://arxiv.org/abs/2412.06464): a forgetting factor exp(g), and a value
that replaces what the key's place held before. Tokens are taken in chunks: within one, what the
tokens write depends on each other by a unit triangular system, solved at once.

megatron-core has such a layer, but it needs CUDA kernels (FLA) and knows no packed documents. Here
a rank holds whole key heads, each with its R value heads; the rows of the input's matrix are for
each key head: query D, key D, values R * E, gates R * E, betas R, decays R.

Shapes: S sequence, B batch, K key heads of this rank, R value heads of each, D key and query size,
E value size, C tokens of a chunk, N chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import (
    make_sharded_tensors_for_checkpoint,
    sharded_state_dict_default,
)
from torch.nn.functional import conv1d, pad, silu, softplus

from megacpt.families.architecture import DeltaNet
from megacpt.model.layers.modules import Modules

CHUNK = 64


class GatedDeltaNet(MegatronModule):  # type: ignore[misc]
    """Takes the place of megatron-core's SelfAttention."""

    def __init__(
        self, config: TransformerConfig, *, sizes: DeltaNet, modules: Modules, **_: object
    ) -> None:
        super().__init__(config=config)
        tp = config.tensor_model_parallel_size
        self.sizes, self.key_heads = sizes, sizes.key_heads // tp
        self.value_heads = sizes.value_heads // tp
        linear = {
            "config": config,
            "init_method": config.init_method,
            "bias": False,
            "is_expert": False,
        }
        self.in_proj = modules.column(
            config.hidden_size,
            sizes.key_heads * sum(self._rows()),
            gather_output=False,
            skip_bias_add=False,
            tp_comm_buffer_name="qkv",
            **linear,
        )
        self.out_proj = modules.row(
            sizes.value_heads * sizes.value_dim,
            config.hidden_size,
            input_is_parallel=True,
            skip_bias_add=True,
            tp_comm_buffer_name="proj",
            **linear,
        )
        channels = self.key_heads * sum(self._rows()[:3])
        self.conv = self._parameter(channels, 1, sizes.kernel)
        self.A_log = self._parameter(self.value_heads)
        self.dt_bias = self._parameter(self.value_heads)
        self.norm = self._parameter(sizes.value_dim)

    def _rows(self) -> list[int]:
        """Of a key head: query, key, values, gates, betas, decays."""
        sizes = self.sizes
        each = sizes.value_heads // sizes.key_heads
        values = each * sizes.value_dim
        return [sizes.key_dim, sizes.key_dim, values, values, each, each]

    def _parameter(self, *shape: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.empty(shape, dtype=self.config.params_dtype))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states to hidden states, no bias; each document by itself."""
        mixed, _bias = self.in_proj(hidden_states)
        if packed_seq_params is None:
            out = self._document(mixed)
        else:
            lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
            out = torch.cat([self._document(part) for part in torch.split(mixed, lengths)])
        projected: tuple[torch.Tensor, torch.Tensor | None] = self.out_proj(out)
        return projected

    def _document(self, mixed_SBF: torch.Tensor) -> torch.Tensor:
        heads = (*mixed_SBF.shape[:2], self.key_heads, -1)
        heads_SBKF = mixed_SBF.view(heads)
        q, k, v, gate, beta, decay = torch.split(heads_SBKF, self._rows(), dim=-1)
        qkv = self._convolved(torch.cat((q, k, v), dim=-1))
        q, k, v = torch.split(qkv, self._rows()[:3], dim=-1)
        by_value_head = (*heads, self.sizes.value_dim)
        # In float32, as the decays of a chunk are summed; a sum of logarithms, as their product
        # would vanish.
        log_decay = -self.A_log.float().exp() * softplus(
            decay.flatten(2).float() + self.dt_bias.float()
        )
        read = delta_rule(
            q,
            k_SBKD=k,
            v_SBKRE=v.reshape(by_value_head),
            log_decay_SBKR=log_decay.view(heads),
            beta_SBKR=beta.sigmoid(),
        )
        out = self._gated_norm(read, gate=gate.reshape(by_value_head))
        return out.flatten(2)

    def _convolved(self, x_SBKF: torch.Tensor) -> torch.Tensor:
        """Every channel mixed with its last ``kernel`` values."""
        x_BFS = x_SBKF.flatten(2).permute(1, 2, 0)
        before = self.sizes.kernel - 1
        mixed_BFS = conv1d(pad(x_BFS, (before, 0)), self.conv, groups=len(self.conv))
        return silu(mixed_BFS).permute(2, 0, 1).view_as(x_SBKF)

    def _gated_norm(self, x: torch.Tensor, *, gate: torch.Tensor) -> torch.Tensor:
        """RMSNorm of each value head, then the gate. The scale is one for all heads, so that its
        gradient is summed over the ranks, which have some of them each."""
        wide = x.float()
        inverse = torch.rsqrt(
            wide.pow(2).mean(dim=-1, keepdim=True) + self.config.layernorm_epsilon
        )
        scale: torch.Tensor = copy_to_tensor_model_parallel_region(self.norm)
        normed = (wide * inverse).to(x.dtype) * scale
        return (normed * silu(gate.float())).to(x.dtype)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[Any, ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Whole key heads are cut over the ranks along the first dimension of all but the norm."""
        own = dict(self.named_parameters(recurse=False))
        cut = dict.fromkeys(own.keys() - {"norm"}, 0)
        found: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            own,
            prefix,
            cut,
            sharded_offsets,
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        for name, module in self.named_children():
            found |= sharded_state_dict_default(
                module, f"{prefix}{name}.", sharded_offsets, metadata
            )
        return found


def delta_rule(
    q_SBKD: torch.Tensor,
    *,
    k_SBKD: torch.Tensor,
    v_SBKRE: torch.Tensor,
    log_decay_SBKR: torch.Tensor,
    beta_SBKR: torch.Tensor,
) -> torch.Tensor:
    """What the queries read, in the type of ``v_SBKRE``; computed in float32.

    Queries and keys are brought to length one, queries then divided by the root of D.
    """
    length, dim = len(q_SBKD), q_SBKD.shape[-1]
    q, k = (_chunks(_unit(x)).unsqueeze(3) for x in (q_SBKD, k_SBKD))  # (N, B, K, 1, C, D)
    v, beta = _chunks(v_SBKRE.float()), _chunks(beta_SBKR.float().unsqueeze(-1))
    # Sums up to each token, as a product: on GPUs torch's own have no fixed order.
    decays = _chunks(log_decay_SBKR.unsqueeze(-1))  # (N, B, K, R, C, 1)
    summed = decays.new_ones(CHUNK, CHUNK).tril() @ decays
    between = (summed - summed.transpose(-1, -2)).tril().exp().tril()
    overlap = k @ k.transpose(-1, -2) * between * beta
    # New values as if the state were empty, and what each unit of the state takes from them.
    written = torch.cat((v * beta, k * beta * summed.exp()), dim=-1)
    solved = torch.linalg.solve_triangular(overlap, written, upper=False, unitriangular=True)
    fresh, taken = solved.split((v.shape[-1], dim), dim=-1)
    q = q * dim**-0.5
    among = q @ k.transpose(-1, -2) * between
    from_state, last = q * summed.exp(), summed[..., -1:, :]
    to_state = k * (last - summed).exp()
    state, outs = fresh.new_zeros(*fresh.shape[1:4], dim, fresh.shape[-1]), []
    for n in range(len(fresh)):
        new = fresh[n] - taken[n] @ state
        outs.append(from_state[n] @ state + among[n] @ new)
        state = last[n].exp() * state + to_state[n].transpose(-1, -2) @ new
    read_SBKRE = torch.stack(outs).permute(0, 4, 1, 2, 3, 5).flatten(0, 1)
    return read_SBKRE[:length].to(v_SBKRE.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """x / sqrt(|x|^2 + 1e-6), which is not torch's ``normalize`` near zero."""
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).sum(dim=-1, keepdim=True) + 1e-6)


def _chunks(x: torch.Tensor) -> torch.Tensor:
    """(S, B, ..., F) to (N, B, ..., C, F), filled up with zeros, which write nothing."""
    missing = -len(x) % CHUNK
    filled = torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x
    return filled.view(-1, CHUNK, *x.shape[1:]).movedim(1, -2)
