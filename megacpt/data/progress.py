# SPDX-License-Identifier: Apache-2.0
"""How far a tokenization is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a tokenization is."""

    bytes_done: int
    bytes_total: int
    """Of the input files on disk."""
    bytes_before: int = 0
    """Of those, done by an earlier run."""
    documents: int
    tokens: int


ProgressCallback = Callable[[Progress], None]
