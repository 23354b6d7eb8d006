# SPDX-License-Identifier: Apache-2.0
"""How well a model foresees the beginning of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from megacpt.convert.by_transformers import load_transformers
from megacpt.curate.filters.rule import Ruling, beyond
from megacpt.curate.filters.settings import PerplexityConfig
from megacpt.curate.filters.threshold import Threshold
from megacpt.families.stored.fingerprint import fingerprint
from megacpt.tokenizer import load_tokenizer

CHARACTERS_A_TOKEN = 32
"""More of a text is not cut into tokens."""


class Perplexity:
    """Texts are read one by one: in one batch with others, the last bits would depend on these."""

    def __init__(self, settings: PerplexityConfig, *, is_measuring: bool = False) -> None:
        folder = Path(settings.model)
        fingerprint(folder)  # Says what is wrong with the folder, if anything is.
        self.limits: Mapping[str, Threshold] = {
            "min": Threshold(None if is_measuring else settings.min),
            "max": Threshold(None if is_measuring else settings.max),
        }
        self._tokens = settings.tokens
        self._tokenizer = load_tokenizer(folder)
        self._model = load_transformers(folder, device="cpu")

    def __call__(self, text: str) -> Ruling:
        value = self.perplexity(text)
        if value is not None and value < self.limits["min"]:
            return beyond(text, name="perplexity_low", rule=self)
        if value is not None and value > self.limits["max"]:
            return beyond(text, name="perplexity_high", rule=self)
        return Ruling(text=text)

    def perplexity(self, text: str) -> float | None:
        """Four digits, for those after them depend on the machine; None: it is one token."""
        import torch
        from torch.nn import functional

        ids = self._tokenizer.encode(text[: CHARACTERS_A_TOKEN * self._tokens])[: self._tokens]
        if len(ids) < 2:
            return None
        tokens_S = torch.tensor([int(n) for n in ids])
        with torch.no_grad():
            logits_SV = self._model(tokens_S.unsqueeze(0)).logits[0].float()
        loss = float(functional.cross_entropy(logits_SV[:-1], tokens_S[1:]))
        return float(f"{math.exp(min(loss, 700.0)):.4g}")
