# SPDX-License-Identifier: Apache-2.0
"""Which experts a token gets, and with what weights.

megatron-core's own choice renormalises sigmoid scores always, and scores a group of experts by
another number of them than DeepSeek's models do.

Shapes: T tokens, E experts, G groups of N experts each, K experts of a token.
"""

from __future__ import annotations

import torch

from megacpt.families.architecture import Experts, Routing


def scores_of(logits_TE: torch.Tensor, *, routing: Routing) -> torch.Tensor:
    """In float32."""
    wide_TE = logits_TE.float()
    return wide_TE.sigmoid() if routing.sigmoid else wide_TE.softmax(dim=-1)


def choose_experts(
    scores_TE: torch.Tensor,
    *,
    logits_TE: torch.Tensor,
    experts: Experts,
    bias_E: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of each token's experts, 0 of all others, and which these are; both (T, E)."""
    routing = experts.routing
    # Sigmoids may all be one where logits still differ.
    plain_TE = logits_TE if routing.sigmoid and bias_E is None else scores_TE
    ranked_TE = plain_TE.detach() if bias_E is None else plain_TE.detach() + bias_E
    if routing.groups_per_token < routing.groups:
        ranked_TE = _of_best_groups(ranked_TE, routing=routing)
    indices_TK = ranked_TE.topk(experts.per_token, dim=-1).indices
    weights_TK = scores_TE.gather(1, indices_TK)
    if experts.renormalised:
        # Sigmoids may all be zero.
        weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
    weights_TK = weights_TK * routing.scale
    chosen_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(1, indices_TK, True)
    return torch.zeros_like(scores_TE).scatter(1, indices_TK, weights_TK), chosen_TE


def _of_best_groups(ranked_TE: torch.Tensor, *, routing: Routing) -> torch.Tensor:
    """All other groups' experts are ranked last."""
    ranked_TGN = ranked_TE.view(len(ranked_TE), routing.groups, -1)
    best_TGN = ranked_TGN.topk(routing.group_scored_by, dim=-1).values
    groups_TK = best_TGN.sum(dim=-1).topk(routing.groups_per_token, dim=-1).indices
    left_TG = torch.ones_like(ranked_TGN[..., 0], dtype=torch.bool).scatter(1, groups_TK, False)
    return ranked_TGN.masked_fill(left_TG.unsqueeze(-1), -torch.inf).flatten(1)
