# SPDX-License-Identifier: Apache-2.0
"""What a setting may be: limits in the metadata of its dataclass field, and the one check of them.

The check, the reference and the completion read the same limits, so that none can differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from megacpt.errors import Violation
from megacpt.text import one_of

T = TypeVar("T")
_KEY = "limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A range of finite numbers, or a choice of words; ``null`` is never checked."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    rule: str = ""
    """The broken rule in other words than the usual ones."""
    remedy: str = ""
    """Advice in other words than the usual ones; ``{path}`` is the setting."""

    def allow(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        in_range = self.at_least <= value <= self.at_most and self.above < value < self.below
        return in_range and math.isfinite(value)

    def violation(self, path: str, *, value: object) -> Violation:
        rule, remedy = self._words()
        return Violation(
            path=path,
            value=value,
            rule=self.rule or rule,
            remedy=(self.remedy or remedy).format(path=path),
        )

    def _words(self) -> tuple[str, str]:
        if self.choices:
            return "is not one of the allowed values", f"use {one_of(self.choices)}"
        if math.isfinite(min(self.at_most, self.below)):
            return f"is outside {self._interval()}", f"use a number in {self._interval()}"
        if math.isfinite(self.above):
            return f"is not above {self.above:g}", "use a positive number"
        return f"is below {self.at_least:g}", f"use {self.at_least:g} or more"

    def range(self) -> str:
        """Words that follow the type of the setting."""
        if math.isfinite(min(self.at_most, self.below)):
            return f" in {self._interval()}"
        if math.isfinite(self.above):
            return f" above {self.above:g}"
        return f", {self.at_least:g} or more"

    def _interval(self) -> str:
        """``[0, 1)``: a bracket includes the number next to it, a parenthesis does not."""
        start = f"[{self.at_least:g}" if math.isfinite(self.at_least) else f"({self.above:g}"
        end = f"{self.at_most:g}]" if math.isfinite(self.at_most) else f"{self.below:g})"
        return f"{start}, {end}"


POSITIVE = Limits(above=0)
NOT_NEGATIVE = Limits(at_least=0)
COUNT = Limits(at_least=1)


def limited(default: T, *, limits: Limits) -> T:
    """A dataclass field with a default and limits."""
    return field(default=default, metadata=required(limits))


def required(limits: Limits) -> dict[str, Limits]:
    """Metadata of a dataclass field without a default."""
    return {_KEY: limits}


def limits_of(setting: Field[Any]) -> Limits | None:
    return setting.metadata.get(_KEY)


def beyond_limits(section: Any, *, prefix: str = "") -> Iterator[Violation]:
    """Values outside their limits, in this section and all below it."""
    for setting in fields(section):
        value, path = getattr(section, setting.name), f"{prefix}{setting.name}"
        limits = limits_of(setting)
        if is_dataclass(value):
            yield from beyond_limits(value, prefix=f"{path}.")
        elif isinstance(value, dict):
            for name, entry in value.items():
                yield from beyond_limits(entry, prefix=f"{path}.{name}.")
        elif limits is not None and value is not None and not limits.allow(value):
            yield limits.violation(path, value=value)
