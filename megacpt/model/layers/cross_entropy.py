# SPDX-License-Identifier: Apache-2.0
"""Output projection and cross entropy in one, some rows at a time: all logits are never held.

The gradient of a row's logits is (softmax - one-hot) * w, with w the weight of the row's loss, so
it can be made while the logits are still there, and the backward pass has nothing left but a scale:
the idea of Liger Kernel (https://arxiv.org/abs/2410.10989, section 3.2). With e = exp(logit - max)
and s their sum it is (e - s * one-hot) * w / s: e takes the place of the logits, and w / s goes
into the small operands of the two products, which saves passes over the large one.

Logits and e are rounded to the type of the weights, as a plain output layer rounds logits and their
gradient; sums and losses are float32.

Shapes: T tokens, C tokens of a chunk, D hidden size, V the vocabulary rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

CHUNK_BYTES = 2**27
"""Logits of a chunk at most: enough rows for a fast product, little beside a model."""
FROZEN_CHUNK_BYTES = 2**25
"""Where the weight has no gradient, to which each chunk would add."""
TILE_BYTES = 2**20
"""Float32 logits worked on at once: they stay in a CPU's cache."""


def linear_cross_entropy(
    hidden_TD: torch.Tensor,
    *,
    weight_VD: torch.Tensor,
    labels_T: torch.Tensor,
    loss_weights_T: torch.Tensor,
    vocab_size: int,
    group: dist.ProcessGroup,
    cap: float | None = None,
) -> torch.Tensor:
    """losses_T (float32), not multiplied by ``loss_weights_T``.

    ``labels_T`` counts over the whole vocabulary, of which rank r of ``group`` has the rows from
    r * V on; those from ``vocab_size`` on are padding. The caller must weigh the losses by
    ``loss_weights_T`` times any one factor: gradients are made for those weights, and others are
    refused in the backward pass. ``cap``: c, where logits x are bounded to c * tanh(x / c).
    """
    first_row = dist.get_rank(group) * weight_VD.shape[0]
    losses_T: torch.Tensor = _LinearCrossEntropy.apply(
        hidden_TD,
        weight_VD,
        labels_T - first_row,
        loss_weights_T,
        max(vocab_size - first_row, 0),
        group,
        # Inside, gradients are off, and what an input needs is said without regard to that.
        torch.is_grad_enabled(),
        cap,
    )  # type: ignore[no-untyped-call]
    return losses_T


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        own_labels_T: torch.Tensor,
        loss_weights_T: torch.Tensor,
        num_real: int,
        group: dist.ProcessGroup,
        wants_gradients: bool,
        cap: float | None,
    ) -> torch.Tensor:
        """``own_labels_T`` counts from this rank's first row, ``num_real`` of which are real."""
        of_hidden, of_weight = (wants_gradients and needs for needs in ctx.needs_input_grad[:2])
        chunks = _Chunks(hidden_TD, weight_VD=weight_VD, of_hidden=of_hidden, of_weight=of_weight)
        losses = []
        for rows in chunks.rows:
            logits_CV = chunks.logits(rows)
            slopes_CV = None if cap is None else _bound(logits_CV, cap=cap)
            logits_CV[:, num_real:] = torch.finfo(logits_CV.dtype).min
            softmax = _Softmax.replace(logits_CV, own_labels_C=own_labels_T[rows], group=group)
            losses.append(softmax.losses_C)
            if of_hidden or of_weight:
                softmax.subtract_labels()
                if slopes_CV is not None:
                    logits_CV *= slopes_CV
                chunks.add_gradients(
                    rows, d_logits_CV=logits_CV, row_factors_C=loss_weights_T[rows] / softmax.sums_C
                )
        if of_hidden or of_weight:
            ctx.save_for_backward(chunks.d_hidden_TD, chunks.d_weight_VD, loss_weights_T)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, d_losses_T: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *gradients, loss_weights_T = ctx.saved_tensors
        scale = _common_factor(d_losses_T, loss_weights_T=loss_weights_T)
        if scale != 1.0:
            gradients = [None if each is None else each * scale for each in gradients]
        return *gradients, None, None, None, None, None, None


class _Chunks:
    """The buffers of one pass: logits of a chunk, and the gradients that chunks add to."""

    d_hidden_TD: torch.Tensor | None = None
    d_weight_VD: torch.Tensor | None = None

    def __init__(
        self, hidden_TD: torch.Tensor, *, weight_VD: torch.Tensor, of_hidden: bool, of_weight: bool
    ) -> None:
        num_rows, num_columns = hidden_TD.shape[0], weight_VD.shape[0]
        chunk_bytes = CHUNK_BYTES if of_weight else FROZEN_CHUNK_BYTES
        size = max(1, chunk_bytes // (num_columns * weight_VD.element_size()))
        # Equal chunks: a small last one would be slow.
        size = -(-num_rows // -(-num_rows // size))
        starts = range(0, num_rows, size)
        self.rows = [slice(start, min(start + size, num_rows)) for start in starts]
        self._hidden_TD, self._weight_VD = hidden_TD, weight_VD
        self._buffer = hidden_TD.new_empty(size, num_columns)
        if of_hidden:
            self.d_hidden_TD = torch.empty_like(hidden_TD)
        if of_weight:
            self.d_weight_VD = torch.empty_like(weight_VD)
            # Float32, as several roundings would add up; one chunk needs no sum.
            self._sum_VD = torch.empty_like(weight_VD, dtype=torch.float32)

    def logits(self, rows: slice) -> torch.Tensor:
        """In a buffer that the next chunk takes over."""
        out = self._buffer[: rows.stop - rows.start]
        return torch.mm(self._hidden_TD[rows], self._weight_VD.t(), out=out)

    def add_gradients(
        self, rows: slice, *, d_logits_CV: torch.Tensor, row_factors_C: torch.Tensor
    ) -> None:
        """Of logits whose gradient is ``d_logits_CV``, each row times its factor."""
        factors_C1 = row_factors_C.unsqueeze(1)
        if self.d_hidden_TD is not None:
            d_hidden_CD = torch.mm(d_logits_CV, self._weight_VD)
            torch.mul(d_hidden_CD, factors_C1, out=self.d_hidden_TD[rows])
        if self.d_weight_VD is not None:
            hidden_CD = (self._hidden_TD[rows] * factors_C1).to(d_logits_CV.dtype)
            torch.mm(d_logits_CV.t(), hidden_CD, out=self.d_weight_VD)
            self._add_weight(rows, d_weight_VD=self.d_weight_VD)

    def _add_weight(self, rows: slice, *, d_weight_VD: torch.Tensor) -> None:
        """The chunk's gradient to the sum, which takes its place after the last."""
        if len(self.rows) == 1:
            return
        if rows.start == 0:
            self._sum_VD.copy_(d_weight_VD)
        else:
            self._sum_VD += d_weight_VD
        if rows == self.rows[-1]:
            d_weight_VD.copy_(self._sum_VD)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Softmax:
    """A softmax over all ranks' columns, its numerators where the logits were."""

    e_CV: torch.Tensor
    own_labels_C: torch.Tensor
    max_C: torch.Tensor
    sums_C: torch.Tensor
    label_logits_C: torch.Tensor

    @classmethod
    def replace(
        cls, logits_CV: torch.Tensor, *, own_labels_C: torch.Tensor, group: dist.ProcessGroup
    ) -> _Softmax:
        is_here_C, column_C1 = _columns(own_labels_C, num_columns=logits_CV.shape[1])
        label_logits_C = logits_CV.gather(1, column_C1).squeeze(1).float() * is_here_C
        max_C = logits_CV.amax(dim=1).float()
        _all_reduce(max_C, op=dist.ReduceOp.MAX, group=group)
        sums_C = torch.empty_like(max_C)
        for tile in _tiles(logits_CV):
            wide = logits_CV[tile].float().sub_(max_C[tile].unsqueeze(1)).exp_()
            torch.sum(wide, dim=1, out=sums_C[tile])
            logits_CV[tile] = wide
        totals_2C = torch.stack([sums_C, label_logits_C])
        _all_reduce(totals_2C, op=dist.ReduceOp.SUM, group=group)
        return cls(
            e_CV=logits_CV,
            own_labels_C=own_labels_C,
            max_C=max_C,
            sums_C=totals_2C[0],
            label_logits_C=totals_2C[1],
        )

    @property
    def losses_C(self) -> torch.Tensor:
        return self.sums_C.log() + self.max_C - self.label_logits_C

    def subtract_labels(self) -> None:
        """Subtract the sum from each label's numerator, in float32: both may be almost equal."""
        is_here_C, column_C1 = _columns(self.own_labels_C, num_columns=self.e_CV.shape[1])
        e_C = (self.label_logits_C - self.max_C).exp()
        old_C1 = self.e_CV.gather(1, column_C1)
        new_C1 = (e_C - self.sums_C).unsqueeze(1).to(self.e_CV.dtype)
        # By index: scatter_ first copies all of what it writes to.
        rows_C = torch.arange(len(old_C1), device=old_C1.device)
        new_C = torch.where(is_here_C, new_C1.squeeze(1), old_C1.squeeze(1))
        self.e_CV[rows_C, column_C1.squeeze(1)] = new_C


def _bound(logits_CV: torch.Tensor, *, cap: float) -> torch.Tensor:
    """Bound the logits where they are; returns the slopes of that, 1 - tanh(x / c)^2."""
    slopes_CV = torch.empty_like(logits_CV)
    for tile in _tiles(logits_CV):
        bounded = torch.tanh(logits_CV[tile].float() / cap)
        torch.mul(bounded, cap, out=logits_CV[tile])
        slopes_CV[tile] = bounded.square_().neg_().add_(1.0)
    return slopes_CV


def _columns(own_labels_C: torch.Tensor, *, num_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each label is on this rank, and its column (any, where it is not)."""
    is_here_C = (own_labels_C >= 0) & (own_labels_C < num_columns)
    return is_here_C, own_labels_C.clamp(0, num_columns - 1).unsqueeze(1)


def _tiles(logits_CV: torch.Tensor) -> list[slice]:
    size = max(1, TILE_BYTES // (logits_CV.shape[1] * 4))
    return [slice(start, start + size) for start in range(0, logits_CV.shape[0], size)]


def _all_reduce(tensor: torch.Tensor, *, op: Any, group: dist.ProcessGroup) -> None:
    if dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, op=op, group=group)


def _common_factor(d_losses_T: torch.Tensor, *, loss_weights_T: torch.Tensor) -> float:
    """The one factor between the gradient of the losses and the weights they were made for."""
    heaviest = int(loss_weights_T.argmax())
    weight = float(loss_weights_T[heaviest])
    factor = float(d_losses_T[heaviest]) / weight if weight else 0.0
    if not torch.allclose(d_losses_T, loss_weights_T * factor, rtol=1e-5, equal_nan=True):
        raise ValueError(
            "the losses were weighed otherwise than linear_cross_entropy was told by "
            "loss_weights_T, so its gradients would be wrong"
        )
    return factor
