# SPDX-License-Identifier: Apache-2.0
"""The length of a text."""

from __future__ import annotations

from collections.abc import Mapping

from megacpt.curate.filters.rule import Ruling, beyond
from megacpt.curate.filters.settings import LengthConfig
from megacpt.curate.filters.threshold import Threshold


class Length:
    def __init__(self, settings: LengthConfig, *, is_measuring: bool = False) -> None:
        self.limits: Mapping[str, Threshold] = {
            "min_characters": Threshold(None if is_measuring else settings.min_characters),
            "max_characters": Threshold(None if is_measuring else settings.max_characters),
        }

    def __call__(self, text: str) -> Ruling:
        length = len(text.strip())
        if length < self.limits["min_characters"]:
            return beyond(text, name="too_short", rule=self)
        if length > self.limits["max_characters"]:
            return beyond(text, name="too_long", rule=self)
        return Ruling(text=text)
