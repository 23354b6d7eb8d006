# SPDX-License-Identifier: Apache-2.0
"""The replay source of the demo: technical prose of today, a cloud service's manual a document.

The package botocore 1.44.5 (Apache-2.0) describes every AWS service in HTML. It stands in for the
text the base model was trained on, a little of which in every batch keeps it from forgetting.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from typing import Any

from megacpt.demo.overlap import Document
from megacpt.demo.texts import folder_of

CHARACTERS_MIN = 2_000
"""Shorter manuals say little but their own name."""
CHARACTERS_MAX = 60_000
"""One service (EC2) would otherwise be an eighth of everything."""
BLOCK = re.compile(r"</?(p|li|ul|ol|dl|dt|dd|note|important|caution|h\d|br|table|tr|pre)\b[^>]*>")
TAG = re.compile(r"<[^>]+>")


def manuals() -> list[Document]:
    """One manual a service, of its newest version, in the alphabet's order."""
    folder = folder_of("botocore") / "data"
    found: dict[str, Document] = {}
    for path in sorted(folder.glob("*/*/service-2.json.gz")):
        text = manual(json.loads(gzip.decompress(path.read_bytes())))
        name = path.parts[-3]
        if len(text) >= CHARACTERS_MIN:
            found[name] = Document(source=f"AWS manual: {name}", text=text)
    return list(found.values())


def manual(service: dict[str, Any]) -> str:
    """The introduction, then each operation under its name; whole operations up to the limit."""
    name = service["metadata"].get("serviceFullName", "")
    parts = [name, plain(service.get("documentation", ""))]
    for operation, content in service["operations"].items():
        described = plain(content.get("documentation", ""))
        if sum(map(len, parts)) + len(described) > CHARACTERS_MAX:
            break
        parts += [operation, described]
    return "\n\n".join(part for part in parts if part)


def plain(markup: str) -> str:
    """HTML without its tags; block elements become paragraphs."""
    text = html.unescape(TAG.sub("", BLOCK.sub("\n\n", markup)))
    # Blanks of all kinds: some readers would cut a JSON line at a line separator of Unicode.
    text = re.sub(r" ?\n\s*", "\n\n", re.sub(r"[^\S\n]+", " ", text))
    return text.strip()
