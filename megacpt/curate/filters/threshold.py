# SPDX-License-Identifier: Apache-2.0
"""Limits that remember what they were compared with.

datatrove's filters compare what they measure of a document with their limits, and tell only which
of these it broke. Given such limits they tell the numbers, too: of a document that is left out the
value beside the limit, and with limits that nothing is beyond (NaN) all that they measure.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Threshold(float):
    """A limit; ``None`` makes one that nothing is beyond."""

    __array_ufunc__ = None
    """NumPy's numbers leave the comparison to it."""

    def __new__(cls, value: float | None) -> Threshold:
        return super().__new__(cls, math.nan if value is None else value)

    def __init__(self, value: float | None) -> None:
        self.forget()

    def forget(self) -> None:
        self.seen: float | None = None
        """Of the numbers that it was compared with, the one nearest to breaking it or beyond."""
        self.sign = ""
        """How: a value ``sign`` the limit is beyond it."""
        self.is_broken = False

    def __bool__(self) -> bool:
        # 0 is a limit like others, where datatrove asks whether there is one.
        return True

    def __lt__(self, other: Any) -> bool:
        return self._compare(other, sign="<")

    def __le__(self, other: Any) -> bool:
        return self._compare(other, sign="<=")

    def __gt__(self, other: Any) -> bool:
        return self._compare(other, sign=">")

    def __ge__(self, other: Any) -> bool:
        return self._compare(other, sign=">=")

    def _compare(self, other: Any, *, sign: str) -> bool:
        value, self.sign = float(other), MIRRORED[sign]
        extreme = max if self.sign in (">", ">=") else min
        self.seen = value if self.seen is None else extreme(self.seen, value)
        self.is_broken = OPERATORS[sign](float(self), value)
        return self.is_broken
