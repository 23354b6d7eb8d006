# SPDX-License-Identifier: Apache-2.0
"""Logits after the last token of growing texts: with keys and values kept, or computed again.

Shapes: B texts, S longest text, T tokens of a row, R texts whose logits are here, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from megacpt.evaluate.benchmarks.passes import branches_of, padded_length, run_padded
from megacpt.evaluate.benchmarks.rows import shared_rows
from megacpt.evaluate.benchmarks.text import Text
from megacpt.model.forward import run_chosen
from megacpt.model.layers.attention.cache import FirstPass, KeyValues, NextPass
from megacpt.model.layers.output_layer import Chosen
from megacpt.model.viewed import viewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """``texts_R``: numbers of the texts; none off the last stage."""

    texts_R: list[int]
    logits_RV: torch.Tensor | None


class Decoder(Protocol):
    """All methods are collective calls of a replica; ``texts`` are the same texts, one longer."""

    def first(self, texts: Sequence[Sequence[int]]) -> Logits: ...

    def next(self, texts: Sequence[Sequence[int]]) -> Logits: ...

    def keep(self, numbers: Sequence[int]) -> None:
        """The others are not asked about any more."""
        ...


class CachedDecoder:
    """Prefills in one row: as many forward passes on every replica."""

    def __init__(self, chunks: Sequence[Any], *, device: torch.device, new_tokens: int) -> None:
        self._chunks, self._device, self._new_tokens = chunks, device, new_tokens

    def first(self, texts: Sequence[Sequence[int]]) -> Logits:
        places = max(map(len, texts)) + self._new_tokens
        self._cache = KeyValues(texts=len(texts), places=places)
        asked = [Text(inputs=tuple(text), labels=()) for text in texts]
        (row,) = shared_rows(asked, max_tokens=sum(map(len, texts)))
        row.pad(padded_length(len(row.tokens_T), device=self._device))
        paths = {n: tuple(slice(*piece) for piece in row.texts[n]) for n in range(len(texts))}
        branches = branches_of(row, device=self._device)
        view = FirstPass(branches=branches, cache=self._cache, paths=paths)
        last = [row.texts[n][-1][1] - 1 for n in range(len(texts))]
        return self._run(view, tokens=row.tokens_T, last=last)

    def next(self, texts: Sequence[Sequence[int]]) -> Logits:
        length = padded_length(len(texts), device=self._device)
        padding = [0] * (length - len(texts))
        before = [len(text) - 1 for text in texts]
        view = NextPass(
            cache=self._cache,
            lengths_B=torch.tensor(before, device=self._device),
            longest=max(before),
            positions_T=torch.tensor(before + padding, device=self._device),
        )
        tokens = [text[-1] for text in texts] + padding
        return self._run(view, tokens=tokens, last=list(range(len(texts))))

    def keep(self, numbers: Sequence[int]) -> None:
        self._cache.keep(numbers)

    def _run(self, view: FirstPass | NextPass, *, tokens: list[int], last: list[int]) -> Logits:
        with viewed(self._chunks, view=view):
            logits_RV = run_chosen(
                self._chunks,
                tokens_BS=torch.tensor([tokens], device=self._device),
                positions_BS=view.positions_T.unsqueeze(0),
                chosen=Chosen(places_R=torch.tensor(last, device=self._device), labels_R=None),
            )
        return Logits(texts_R=list(range(len(last))), logits_RV=logits_RV)


class PlainDecoder:
    """For models that take no cache: each token is a pass over whole texts."""

    def __init__(self, chunks: Sequence[Any], *, device: torch.device) -> None:
        self._chunks, self._device = chunks, device

    def first(self, texts: Sequence[Sequence[int]]) -> Logits:
        return self.next(texts)

    def next(self, texts: Sequence[Sequence[int]]) -> Logits:
        length = padded_length(max(map(len, texts)), device=self._device)
        is_last_BS = torch.zeros(len(texts), length, dtype=torch.bool)
        for n, text in enumerate(texts):
            is_last_BS[n, len(text) - 1] = True
        text_R, logits_RV = run_padded(
            self._chunks,
            texts=texts,
            is_chosen_BS=is_last_BS,
            labels_BS=None,
            device=self._device,
        )
        return Logits(texts_R=text_R.tolist(), logits_RV=logits_RV)

    def keep(self, numbers: Sequence[int]) -> None:
        """Nothing is kept."""
