# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that earlier versions wrote wrongly, known by the sha256 of their tokenizer.json."""

from __future__ import annotations

from megacpt.errors import ModelError

QUICKSTART = "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4"
_WHY = (
    "is that of an earlier megacpt's quickstart, which gives other ids than the model was "
    "trained with wherever blanks stand before digits"
)
_REMEDY = (
    "make quickstart again, which replaces what is its own, and tokenize and train anew what else "
    "was made with it"
)


def require_current(sha256: str, *, where: object) -> None:
    """Raise ModelError for a tokenizer.json that is known to be wrong."""
    if sha256 == QUICKSTART:
        raise ModelError(f"{where} {_WHY}; {_REMEDY}.")
