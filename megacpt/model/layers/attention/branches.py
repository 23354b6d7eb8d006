# SPDX-License-Identifier: Apache-2.0
"""Texts that begin alike, in one row: what they share is there once, and each sees it and itself.

Attention of a text's own tokens is the layer's usual one, of queries that are the last of the keys:
its keys are the shared beginning, wherever it lies, with its own behind. So windows, caps and sinks
hold in branches as in whole texts.

Shapes: T tokens of the row, H query heads and K key-value heads of this rank, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megacpt.model.layers.attention.causal import CausalAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The tokens of one text that no text before it has. ``path``: where the whole text lies in the
    row, piece after piece; the last piece is its own."""

    path: tuple[slice, ...]

    @property
    def own(self) -> slice:
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """A view (megacpt.model.layers.attention.causal). Their own tokens fill the row in order."""

    branches: Sequence[Branch]
    positions_T: torch.Tensor

    def attend(
        self,
        attention: CausalAttention,
        *,
        q_T1HD: torch.Tensor,
        k_T1KD: torch.Tensor,
        v_T1KD: torch.Tensor,
    ) -> torch.Tensor:
        outs = [
            attention.causal(
                q_T1HD[branch.own],
                k_SBKD=along(k_T1KD, path=branch.path),
                v_SBKD=along(v_T1KD, path=branch.path),
            )
            for branch in self.branches
        ]
        return torch.cat(outs)


def along(x_T1KD: torch.Tensor, *, path: Sequence[slice]) -> torch.Tensor:
    """A whole text, of the tokens of a row."""
    pieces = [x_T1KD[piece] for piece in path]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
