# SPDX-License-Identifier: Apache-2.0
"""The router of a mixture of experts: fp32 logits, and a balancing loss that no layout changes.

Which experts a token gets is in megacpt.model.layers.choice. A bias that corrects that choice is as
the base model's training has left it: continued pretraining keeps it.

The loss is taken over one sample at a time, as Switch Transformer takes it over a batch
(https://arxiv.org/abs/2101.03961, equations 4 to 6): the number of experts times the sum over
experts of f, the share of the sample's choices that fell on the expert, times P, its mean share of
a token's scores. It is 1 where both are even. A layer's loss of each sample is weighted with the
sample's tokens, so that, divided with all else by the tokens of the global batch, it is the mean
over the samples.

megacpt takes it in place of megatron-core's own, whose gradient comes out too small by the
microbatch size and by the ranks of tensor and context parallelism where the gradient is divided
by tokens (0.16.1; 0.19 is right), and whose other forms depend on which samples meet in a
microbatch.

Shapes: S the tokens this rank has of each sample, B microbatch size, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.moe.moe_layer import BaseMoELayer
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.utils import unwrap_model

from megacpt.families.architecture import Experts
from megacpt.model.layers.choice import choose_experts, scores_of


class Router(TopKRouter):  # type: ignore[misc]
    """Keeps, until ``take_figures``, what it chose and lost since."""

    choices_E: torch.Tensor | None = None
    """Tokens sent to each expert."""
    balance: torch.Tensor | None = None
    """Sum of the balancing losses, each weighted with the tokens it was taken over."""

    def __init__(self, *, experts: Experts, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._experts = experts
        if experts.routing.correction_bias:
            bias_E = torch.zeros(experts.num, device=self.weight.device)
            self.expert_bias = torch.nn.Parameter(bias_E, requires_grad=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Keeps the bias in float32 where all else is cast: its bits decide the choice."""
        bias_E = None if self.expert_bias is None else self.expert_bias.data
        super()._apply(fn, recurse)
        if bias_E is not None:
            self.expert_bias.data = bias_E.to(self.weight.device)
        return self

    def routing(
        self, logits: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each token's weights of its experts, and which these are; both (S * B, E)."""
        length, samples, _ = logits.shape
        logits = logits.flatten(0, 1)
        scores = scores_of(logits, routing=self._experts.routing)
        weights, chosen = choose_experts(
            scores, logits_TE=logits, experts=self._experts, bias_E=self.expert_bias
        )
        # A recomputed layer runs forward twice, the first time without gradients.
        if self.training and torch.is_grad_enabled():
            shape = (length, samples, self.num_experts)
            loss = self._balancing_loss(scores.view(shape), chosen_SBE=chosen.view(shape))
            weights = MoEAuxLossAutoScaler.apply(weights, loss * self.config.moe_aux_loss_coeff)
        return weights, chosen

    def _balancing_loss(
        self, scores_SBE: torch.Tensor, *, chosen_SBE: torch.Tensor
    ) -> torch.Tensor:
        """This rank's part of the sum over samples; a sample's tokens may lie on several ranks."""
        length, ranks = scores_SBE.shape[0], self.tp_cp_group.size()
        local_BE = chosen_SBE.sum(dim=0).float()
        choices_BE = local_BE
        if ranks > 1:
            choices_BE = local_BE.clone()
            torch.distributed.all_reduce(choices_BE, group=self.tp_cp_group)
        share_BE = choices_BE / (length * ranks * self.topk)
        probability_BE = (scores_SBE / scores_SBE.sum(dim=-1, keepdim=True)).sum(dim=0)
        # A mean over length * ranks tokens, weighted with as many.
        loss: torch.Tensor = self.num_experts * (share_BE * probability_BE).sum()
        self._note(local_BE.sum(dim=0).double(), balance=loss.detach().double())
        return loss

    def _note(self, choices_E: torch.Tensor, *, balance: torch.Tensor) -> None:
        if self.choices_E is None or self.balance is None:
            self.choices_E, self.balance = choices_E, balance
        else:
            self.choices_E += choices_E
            self.balance += balance

    def take_figures(self) -> torch.Tensor:
        """Tokens of each expert, then the loss, as one vector; they start again at zero."""
        figures = torch.zeros(self.num_experts + 1, dtype=torch.float64, device=self.weight.device)
        if self.choices_E is not None and self.balance is not None:
            figures[:-1], figures[-1] = self.choices_E, self.balance
        self.choices_E = self.balance = None
        return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingFigures:
    """How evenly the tokens of a step were spread, over all ranks."""

    balance_loss: float
    """Mean over samples and layers; 1 is even."""
    busiest_expert: float
    """The fullest expert of any layer, in even shares: from 1 to experts / experts per token."""
    idle_experts: int
    """Experts, of all layers, that got no token."""


def take_figures(chunks: Sequence[Any]) -> RoutingFigures | None:
    """A collective call after a step; ``None`` where the model has no experts."""
    models = unwrap_model(list(chunks))
    config = models[0].config
    if config.num_moe_experts is None:
        return None
    layers = [
        layer
        for model in models
        for layer in model.decoder.layers
        if isinstance(layer.mlp, BaseMoELayer)
    ]
    device = next(models[0].parameters()).device
    shape = (config.num_layers, config.num_moe_experts + 1)
    figures_LE = torch.zeros(shape, dtype=torch.float64, device=device)
    for layer in layers:
        figures_LE[layer.layer_number - 1] = layer.mlp.router.take_figures()
    # Every rank routes tokens of its own: sequence parallelism goes with tensor parallelism here.
    torch.distributed.all_reduce(figures_LE)
    if isinstance(config.moe_layer_freq, list):
        figures_LE = figures_LE[torch.tensor(config.moe_layer_freq, dtype=torch.bool)]
    return _figures(
        figures_LE[:, :-1], balance_L=figures_LE[:, -1], per_token=config.moe_router_topk
    )


def _figures(
    choices_LE: torch.Tensor, *, balance_L: torch.Tensor, per_token: int
) -> RoutingFigures:
    choices_L1 = choices_LE.sum(dim=1, keepdim=True).clamp(min=1.0)
    return RoutingFigures(
        balance_loss=float((balance_L / choices_L1[:, 0]).mean() * per_token),
        busiest_expert=float((choices_LE / choices_L1).max() * choices_LE.shape[1]),
        idle_experts=int((choices_LE == 0).sum()),
    )
