# SPDX-License-Identifier: Apache-2.0
"""Keys and values of texts that are being written: a token is computed once, and seen from there.

The first pass takes whole texts in a row that shares beginnings, and stores all of each; every
further pass takes one token a text. Storing goes to a place, so a pass may run twice (the
interleaved schedule does that).

Shapes: B texts, T tokens of a row, P places, H query heads and K key-value heads of this rank, D
head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megacpt.model.layers.attention.branches import Branches, along
from megacpt.model.layers.attention.causal import CausalAttention


class KeyValues:
    """Of all layers of this rank, made as they ask."""

    def __init__(self, *, texts: int, places: int) -> None:
        self._texts, self._places = texts, places
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(
        self, attention: CausalAttention, *, like_T1KD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """k_BKPD and v_BKPD, to be written into."""
        number, (_, _, K, D) = attention.layer_number, like_T1KD.shape
        if number not in self._layers:
            shape = (self._texts, K, self._places, D)
            self._layers[number] = (like_T1KD.new_zeros(shape), like_T1KD.new_zeros(shape))
        return self._layers[number]

    def keep(self, texts: Sequence[int]) -> None:
        """Forget the others."""
        self._texts = len(texts)
        self._layers = {
            number: (k_BKPD[texts], v_BKPD[texts])
            for number, (k_BKPD, v_BKPD) in self._layers.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """A view of whole texts. ``paths``: number of each text of the row in ``cache``, and where it
    lies."""

    branches: Branches
    cache: KeyValues
    paths: dict[int, tuple[slice, ...]]

    @property
    def positions_T(self) -> torch.Tensor:
        return self.branches.positions_T

    def attend(
        self,
        attention: CausalAttention,
        *,
        q_T1HD: torch.Tensor,
        k_T1KD: torch.Tensor,
        v_T1KD: torch.Tensor,
    ) -> torch.Tensor:
        for stored_BKPD, x_T1KD in zip(
            self.cache.of(attention, like_T1KD=k_T1KD), (k_T1KD, v_T1KD), strict=True
        ):
            for number, path in self.paths.items():
                text_SKD = along(x_T1KD, path=path).squeeze(1)
                stored_BKPD[number, :, : len(text_SKD)] = text_SKD.transpose(0, 1)
        return self.branches.attend(attention, q_T1HD=q_T1HD, k_T1KD=k_T1KD, v_T1KD=v_T1KD)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPass:
    """A view of one more token of each text; further tokens of the row are padding."""

    cache: KeyValues
    lengths_B: torch.Tensor
    """Of the texts before it."""
    longest: int
    positions_T: torch.Tensor

    def attend(
        self,
        attention: CausalAttention,
        *,
        q_T1HD: torch.Tensor,
        k_T1KD: torch.Tensor,
        v_T1KD: torch.Tensor,
    ) -> torch.Tensor:
        k_BKPD, v_BKPD = self.cache.of(attention, like_T1KD=k_T1KD)
        texts = torch.arange(len(self.lengths_B), device=k_BKPD.device)
        k_BKPD[texts, :, self.lengths_B] = k_T1KD[: len(texts), 0]
        v_BKPD[texts, :, self.lengths_B] = v_T1KD[: len(texts), 0]
        out_B1X = attention.of_last(
            q_T1HD[: len(texts)],
            k_BKPD=k_BKPD[:, :, : self.longest + 1],
            v_BKPD=v_BKPD[:, :, : self.longest + 1],
            lengths_B=self.lengths_B + 1,
        )
        padding = q_T1HD.new_zeros(len(q_T1HD) - len(texts), 1, out_B1X.shape[-1])
        return torch.cat([out_B1X, padding])
