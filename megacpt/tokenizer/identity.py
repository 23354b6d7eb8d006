# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer.json computes, in one form, whoever wrote the file and in which version.

The library itself brings older forms to its newest (merges as pairs, defaults filled in). What is
left out here changes no id: padding and truncation, which megacpt does not apply, dropout likewise,
how ids become text, where tokens stand in the text, and defaults that mean "not".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

IDLE_KEYS = {"version", "truncation", "padding", "decoder", "dropout"} | {
    *("trim_offsets", "pair", "type_id")
}
STEPS = ("normalizers", "pretokenizers", "processors")


def digest(content: str, *, beside: str = "") -> str:
    """sha256, in hex, of what the library writes of a tokenizer, and of what it does not write."""
    return hashlib.sha256((as_text(content) + beside).encode()).hexdigest()


def as_text(content: str) -> str:
    """Canonical JSON of what the library writes of a tokenizer."""
    parts: dict[str, Any] = json.loads(content)
    parts = {name: part for name, part in parts.items() if name not in IDLE_KEYS}
    for name in ("normalizer", "pre_tokenizer"):
        parts[name] = list(_steps(parts.get(name)))
    processors = _steps(parts.get("post_processor"))
    parts["post_processor"] = [step for step in processors if not _is_idle(step)]
    large = [parts["model"].pop(name, None) for name in ("vocab", "merges")]
    return json.dumps([_used(parts), large], sort_keys=True, ensure_ascii=False)


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A sequence of steps may be nested, or hold but one."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        for step in next(part[name] for name in STEPS if name in part):
            yield from _steps(step)
    elif part is not None:
        yield part


def _is_idle(processor: dict[str, Any]) -> bool:
    """Whether a step of the post-processor adds no id (transformers writes a template of none)."""
    pieces = [next(iter(piece)) for piece in processor.get("single", ())]
    return processor["type"] == "ByteLevel" or pieces == ["Sequence"]


def _used(value: Any) -> Any:
    """Without keys of no effect, at any depth."""
    if isinstance(value, list):
        return [_used(item) for item in value]
    if isinstance(value, dict):
        kept = {k: _used(v) for k, v in value.items() if k not in IDLE_KEYS}
        return {k: v for k, v in kept.items() if v is not None and v is not False and v != ""}
    return value
