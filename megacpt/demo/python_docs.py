# SPDX-License-Identifier: Apache-2.0
"""General held-out text of the demo: pages of Python's language reference, from the interpreter.

Any model of today has read such pages, so it has something to forget; none of them, and nothing by
their authors, is trained on here.
"""

from __future__ import annotations

from megacpt.demo.overlap import Document

EVERY = 4
"""Each fourth page, in the alphabet's order."""
EXCERPT = 1_200
"""Characters of each that are measured."""


def pages() -> list[Document]:
    from pydoc_data.topics import topics

    names = sorted(topics)[::EVERY]
    return [Document(source=f"Python: {name}", text=topics[name].strip()) for name in names]
