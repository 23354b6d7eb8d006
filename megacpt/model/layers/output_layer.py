# SPDX-License-Identifier: Apache-2.0
"""The output layer: logits where they are asked for, else losses without ever holding all logits.

Shapes: S sequence (S/tp with sequence parallelism, as it comes in), B batch, D hidden size, V the
vocabulary columns of this rank, R chosen tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import ColumnParallelLinear

from megacpt.families.architecture import Scales
from megacpt.model.layers.cross_entropy import linear_cross_entropy
from megacpt.model.layers.token_scores import token_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The tokens after which something is asked for. ``places_R``: s * B + b, S being whole."""

    places_R: torch.Tensor
    labels_R: torch.Tensor | None
    """Scores of these are wanted (megacpt.model.layers.token_scores); None: logits."""


class OutputLayer(ColumnParallelLinear):  # type: ignore[misc]
    """megatron-core's output layer, which knows that some of its columns are padding.

    Tensor parallelism needs equal shares, so the vocabulary is filled up to a multiple of tp. The
    filler's logits are set to the lowest number, so they add nothing to the softmax, get no
    gradient and never win an argmax.
    """

    vocab_size: int
    scale: float
    """Of the logits."""
    cap: float | None

    @classmethod
    def take_over(cls, layer: ColumnParallelLinear, *, vocab_size: int, scales: Scales) -> None:
        """Make an OutputLayer of the layer that GPTModel has built and wired up itself."""
        layer.__class__ = cls
        layer.vocab_size = vocab_size
        layer.scale, layer.cap = scales.logits, scales.logits_cap

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without an extra state, which is empty; GPTModel leaves it out, HybridModel would not."""
        found = super().sharded_state_dict(*args, **kwargs)
        return {name: held for name, held in found.items() if not name.endswith("_extra_state")}

    def forward(
        self,
        hidden_SBD: torch.Tensor,
        weight: torch.Tensor | None = None,
        *,
        labels_BS: torch.Tensor | None = None,
        loss_weights_BS: torch.Tensor | None = None,
        chosen: Chosen | None = None,
        **kwargs: Any,
    ) -> Any:
        """``labels_BS`` and ``loss_weights_BS`` given: losses_BS. ``chosen``: scores_R2 or the
        whole logits_RV of these tokens alone. Else logits and no bias.

        Both go through the module's call, whose hooks gather weights in time for it.
        """
        if self.scale != 1.0:
            # The same as scaled logits, of which the losses never hold all.
            hidden_SBD = hidden_SBD * self.scale
        if chosen is not None:
            weight_VD = self.weight if weight is None else weight
            return self._after(hidden_SBD, weight_VD=weight_VD, chosen=chosen)
        if labels_BS is not None:
            assert loss_weights_BS is not None
            weight_VD = self.weight if weight is None else weight
            return self._losses(
                hidden_SBD,
                weight_VD=weight_VD,
                labels_BS=labels_BS,
                loss_weights_BS=loss_weights_BS,
            )
        logits_SBV, bias = super().forward(hidden_SBD, weight, **kwargs)
        if self.cap is not None:
            logits_SBV = torch.tanh(logits_SBV / self.cap) * self.cap
        real = self._real_columns(logits_SBV.shape[-1])
        if real < logits_SBV.shape[-1]:
            logits_SBV[..., real:] = torch.finfo(logits_SBV.dtype).min
        return logits_SBV, bias

    def _losses(
        self,
        hidden_SBD: torch.Tensor,
        *,
        weight_VD: torch.Tensor,
        labels_BS: torch.Tensor,
        loss_weights_BS: torch.Tensor,
    ) -> torch.Tensor:
        if self.sequence_parallel:
            hidden_SBD = gather_from_sequence_parallel_region(hidden_SBD)
        else:
            hidden_SBD = copy_to_tensor_model_parallel_region(hidden_SBD)
        losses_T = linear_cross_entropy(
            hidden_SBD.flatten(0, 1),
            weight_VD=weight_VD,
            labels_T=labels_BS.t().flatten(),
            loss_weights_T=loss_weights_BS.t().flatten(),
            vocab_size=self.vocab_size,
            cap=self.cap,
            group=parallel_state.get_tensor_model_parallel_group(),
        )
        return losses_T.view(labels_BS.t().shape).t()

    def _after(
        self, hidden_SBD: torch.Tensor, *, weight_VD: torch.Tensor, chosen: Chosen
    ) -> torch.Tensor:
        if self.sequence_parallel:
            hidden_SBD = gather_from_sequence_parallel_region(hidden_SBD)
        hidden_RD = hidden_SBD.flatten(0, 1)[chosen.places_R]
        group = parallel_state.get_tensor_model_parallel_group()
        if chosen.labels_R is not None:
            return token_scores(
                hidden_RD,
                weight_VD=weight_VD,
                labels_R=chosen.labels_R,
                vocab_size=self.vocab_size,
                group=group,
                cap=self.cap,
            )
        logits_RV = gather_from_tensor_model_parallel_region(hidden_RD @ weight_VD.t()).float()
        if self.cap is not None:
            logits_RV = torch.tanh(logits_RV / self.cap) * self.cap
        real_RV: torch.Tensor = logits_RV[:, : self.vocab_size]
        return real_RV

    def _real_columns(self, width: int) -> int:
        """How many of ``width`` columns, gathered or of this rank, are no padding."""
        gathered = width == self.output_size
        rank = 0 if gathered else parallel_state.get_tensor_model_parallel_rank()
        return max(min(self.vocab_size - rank * width, width), 0)
