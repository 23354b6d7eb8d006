# SPDX-License-Identifier: Apache-2.0
"""A rule of the filters: whether a text may stay, and what of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from megacpt.curate.filters.threshold import Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What a rule says of a text."""

    text: str
    """What is left of it."""
    dropped: str = ""
    """Why it may not stay, as a name."""
    changes: tuple[str, ...] = ()
    """Names of what was done to it."""
    detail: Mapping[str, Any] = field(default_factory=dict)


class FilterRule(Protocol):
    @property
    def limits(self) -> Mapping[str, Threshold]:
        """Of whole texts, by the names of the settings; each says what it was compared with."""

    def __call__(self, text: str) -> Ruling: ...


def beyond(text: str, *, name: str, rule: FilterRule, **detail: Any) -> Ruling:
    """A text that is left out, with the limit it is beyond, if any."""
    broken = [(key, limit) for key, limit in rule.limits.items() if limit.is_broken]
    for key, limit in broken[-1:]:
        detail |= {"setting": key, "value": limit.seen, "limit": float(limit)}
    return Ruling(text=text, dropped=name, detail=detail)
