# SPDX-License-Identifier: Apache-2.0
"""What is changed in either of megatron-core's models: the embedding's scale, and an output layer
that masks padding and, on request, takes the loss itself."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.language_module.language_module import LanguageModule

from megacpt.families.architecture import Scales
from megacpt.model.layers.output_layer import Chosen, OutputLayer
from megacpt.model.layers.scales import ScaledEmbedding


class CommonModel(LanguageModule):  # type: ignore[misc]
    """Stands before one of megatron-core's models in the order of base classes."""

    def __init__(
        self, *, real_vocab_size: int, scales: Scales, fuse_loss: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._fuse_loss = fuse_loss
        if self.pre_process and scales.embedding != 1.0:
            ScaledEmbedding.take_over(self.embedding, scales=scales)
        if self.post_process:
            OutputLayer.take_over(self.output_layer, vocab_size=real_vocab_size, scales=scales)

    def forward(
        self,
        *args: Any,
        labels: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        chosen: Chosen | None = None,
        **kwargs: Any,
    ) -> Any:
        """Losses, or what is asked after ``chosen`` tokens, from the hidden states, where
        megatron-core would make all logits first."""
        if chosen is not None and self.post_process:
            return self.output_layer(
                self._hidden_states(*args, **kwargs), self._tied_weight(), chosen=chosen
            )
        fused = self._fuse_loss and labels is not None and loss_mask is not None
        if not (fused and self.post_process):
            return super().forward(*args, labels=labels, loss_mask=loss_mask, **kwargs)
        return self.output_layer(
            self._hidden_states(*args, **kwargs),
            self._tied_weight(),
            labels_BS=labels,
            loss_weights_BS=loss_mask,
        )

    def _tied_weight(self) -> torch.Tensor | None:
        tied = self.share_embeddings_and_output_weights
        return self.shared_embedding_or_output_weight() if tied else None

    def _hidden_states(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Those of the last layer, normed: what a stage gives that has no output layer."""
        self.post_process = False
        try:
            hidden_SBD: torch.Tensor = super().forward(*args, **kwargs)
        finally:
            self.post_process = True
        return hidden_SBD
