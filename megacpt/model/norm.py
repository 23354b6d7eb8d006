# SPDX-License-Identifier: Apache-2.0
"""RMSNorm for megatron-core's local spec, with the arithmetic of transformers' LlamaRMSNorm.

megatron-core's own fallback refuses sequence parallelism. Here the scale is marked, so that
finalize_model_grads sums its gradient over the tensor-parallel ranks, each of which saw another
part of the sequence.
"""

from __future__ import annotations

import torch
from megatron.core.transformer import TransformerConfig


class RMSNorm(torch.nn.Module):
    """x / rms(x) in float32, rounded to the type of x, times the scale."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x_SBD: torch.Tensor) -> torch.Tensor:
        wide_SBD = x_SBD.float()
        mean_square_SB1 = wide_SBD.pow(2).mean(dim=-1, keepdim=True)
        normed_SBD = wide_SBD * torch.rsqrt(mean_square_SB1 + self.eps)
        return self.weight * normed_SBD.to(x_SBD.dtype)
