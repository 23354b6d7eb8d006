# SPDX-License-Identifier: Apache-2.0
"""The language of a text, by py3langid, whose model of 139 languages comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megacpt.curate.filters.rule import Ruling, beyond
from megacpt.curate.filters.settings import LanguageConfig
from megacpt.curate.filters.threshold import Threshold
from megacpt.curate.packages import need
from megacpt.errors import ConfigError
from megacpt.text import listed


class Language:
    def __init__(self, settings: LanguageConfig, *, is_measuring: bool = False) -> None:
        library = need("py3langid.langid")
        self._model: Any = library.LanguageIdentifier.from_model_file(
            library.MODEL_FILE, norm_probs=True
        )
        self._keep = {code.strip() for code in settings.keep.split(",")}
        if unknown := self._keep - {str(code) for code in self._model.nb_classes}:
            raise ConfigError(
                f"filter.language.keep={settings.keep} names {listed(sorted(unknown))}, which "
                "cannot be told; use codes of two letters, such as en,de."
            )
        self._is_measuring = is_measuring
        self.limits: Mapping[str, Threshold] = {
            "min_score": Threshold(None if is_measuring else settings.min_score)
        }

    def __call__(self, text: str) -> Ruling:
        code, score = self._model.classify(text)
        is_kept = code in self._keep
        score = round(float(score), 4)  # Digits after these depend on the machine.
        if not is_kept and not self._is_measuring:
            return beyond(text, name="language", rule=self, language=code, score=score)
        if (score if is_kept else 0.0) < self.limits["min_score"]:
            return beyond(text, name="language_unsure", rule=self, language=code)
        return Ruling(text=text)
