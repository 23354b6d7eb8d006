# SPDX-License-Identifier: Apache-2.0
"""How likely given tokens are after given hidden states, and whether the likeliest: logits of a few
rows at a time, never of all.

Shapes: R rows, C rows of a chunk, D hidden size, V the vocabulary rows of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist

CHUNK_BYTES = 2**25
"""Float32 logits at most; more are no faster."""


def token_scores(
    hidden_RD: torch.Tensor,
    *,
    weight_VD: torch.Tensor,
    labels_R: torch.Tensor,
    vocab_size: int,
    group: dist.ProcessGroup,
    cap: float | None = None,
) -> torch.Tensor:
    """scores_R2, float32: log likelihood of the label in nats, and 1 where no token is likelier
    (of equal ones the first counts), else 0. ``labels_R`` counts over the whole vocabulary."""
    first = dist.get_rank(group) * weight_VD.shape[0]
    real = max(min(vocab_size - first, weight_VD.shape[0]), 0)
    scores = [
        _scores(logits_CV, labels_C=labels_R[rows] - first, first=first, group=group)
        for rows, logits_CV in _logits(hidden_RD, weight_VD=weight_VD, real=real, cap=cap)
    ]
    return torch.cat(scores) if scores else hidden_RD.new_zeros(0, 2, dtype=torch.float32)


def _logits(
    hidden_RD: torch.Tensor, *, weight_VD: torch.Tensor, real: int, cap: float | None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """In float32; padding of the vocabulary gets the lowest number."""
    size = max(1, CHUNK_BYTES // (4 * weight_VD.shape[0]))
    for start in range(0, len(hidden_RD), size):
        rows = slice(start, start + size)
        logits_CV = (hidden_RD[rows] @ weight_VD.t()).float()
        if cap is not None:
            logits_CV = torch.tanh(logits_CV / cap) * cap
        logits_CV[:, real:] = torch.finfo(torch.float32).min
        yield rows, logits_CV


def _scores(
    logits_CV: torch.Tensor, *, labels_C: torch.Tensor, first: int, group: dist.ProcessGroup
) -> torch.Tensor:
    """``labels_C`` counts from this rank's ``first`` row on."""
    own_max_C, own_best_C = logits_CV.max(dim=1)
    max_C = own_max_C.clone()
    _reduce(max_C, op=dist.ReduceOp.MAX, group=group)
    best_C = torch.where(own_max_C == max_C, own_best_C + first, torch.iinfo(torch.int64).max)
    _reduce(best_C, op=dist.ReduceOp.MIN, group=group)
    is_here_C = (labels_C >= 0) & (labels_C < logits_CV.shape[1])
    column_C1 = labels_C.clamp(0, logits_CV.shape[1] - 1).unsqueeze(1)
    label_C = logits_CV.gather(1, column_C1).squeeze(1) * is_here_C
    sums_C = (logits_CV - max_C.unsqueeze(1)).exp_().sum(dim=1)
    totals_2C = torch.stack([sums_C, label_C])
    _reduce(totals_2C, op=dist.ReduceOp.SUM, group=group)
    log_likelihood_C = totals_2C[1] - max_C - totals_2C[0].log()
    is_best_C = best_C == labels_C + first
    return torch.stack([log_likelihood_C, is_best_C.float()], dim=1)


def _reduce(tensor: torch.Tensor, *, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> None:
    if dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, op=op, group=group)
