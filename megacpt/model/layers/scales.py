# SPDX-License-Identifier: Apache-2.0
"""Multipliers that a family puts on embeddings and on what a layer adds to its input.

That of attention is megatron-core's own ``softmax_scale``, that of logits is in the output layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding

from megacpt.families.architecture import Scales


class ScaledEmbedding(LanguageModelEmbedding):  # type: ignore[misc]
    """megatron-core's embedding, times ``scale``."""

    scale: float
    is_rounded: bool

    @classmethod
    def take_over(cls, embedding: LanguageModelEmbedding, *, scales: Scales) -> None:
        """Make one of the embedding that GPTModel has built."""
        embedding.__class__ = cls
        embedding.scale, embedding.is_rounded = scales.embedding, scales.embedding_rounded

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        embedded_SBD: torch.Tensor = super().forward(*args, **kwargs)
        scale = self.scale
        if self.is_rounded:
            scale = torch.tensor(scale, dtype=self.word_embeddings.weight.dtype).item()
        return embedded_SBD * scale


def scale_residuals(layer: Any, *, scale: float) -> None:
    """Have the specified layer add ``scale`` times what attention and MLP give."""
    layer.submodules.self_attn_bda = layer.submodules.mlp_bda = _scaled_add(scale)


def _scaled_add(scale: float) -> Callable[[bool, bool], Callable[..., torch.Tensor]]:
    """Takes the place of megatron-core's get_bias_dropout_add; there is no dropout here."""

    def add(
        update: tuple[torch.Tensor, torch.Tensor | None], residual: torch.Tensor, prob: float
    ) -> torch.Tensor:
        assert prob == 0.0
        x, bias = update
        return residual.to(x.dtype) + scale * (x if bias is None else x + bias)

    return lambda training, fused: add
