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
    documents: int
    tokens: int


ProgressCallback = Callable[[Progress], None]
