# SPDX-License-Identifier: Apache-2.0
"""Spans of a document's text that are read and not learned: a field of its line of JSON.

A curation writes it (``decontaminate.action=mask``), ``megacpt tokenize`` makes a mask of it.
Whoever reads such a line, and does not, must refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from megacpt.corpus.documents import Passage
from megacpt.errors import DataError

NOT_LEARNED = "megacpt_not_learned"
"""Key of the spans, [[start, stop], ...]: characters of what is under ``TEXT``, in order and
apart."""
TEXT = "text"
FIELD = f'"{NOT_LEARNED}":'.encode()
"""In a text the quotation marks would be escaped, so lines with it have such a field."""

CharacterSpan = tuple[int, int]
"""First character, and one past the last."""


def has_spans(passage: Passage) -> bool:
    """Whether any of its documents has some."""
    return isinstance(passage.content, bytes) and FIELD in passage.content


def united(spans: Iterable[CharacterSpan]) -> list[CharacterSpan]:
    """In order and apart: what overlaps or touches is one."""
    found: list[CharacterSpan] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def spans_of(fields: Mapping[str, Any], *, text: str) -> list[CharacterSpan]:
    """DataError: they are no spans of this text."""
    given = fields.get(NOT_LEARNED) or []
    try:
        found = [(start, stop) for start, stop in given]
        bounds = [0, *(bound for span in found for bound in span), len(text)]
        is_right = all(type(bound) is int for bound in bounds) and bounds == sorted(bounds)
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        raise DataError(
            f"{NOT_LEARNED} of a text of {len(text)} characters must be pairs of places in it, in "
            f"order, got {str(given)[:80]}; curate the text again."
        )
    return found


def spans_in(line: bytes, *, text: str) -> list[CharacterSpan]:
    """Those of a line that has been read as a document already."""
    if FIELD not in line:
        return []
    try:
        return spans_of(orjson.loads(line), text=text)
    except orjson.JSONDecodeError:  # Half of a surrogate pair, in another field.
        return spans_of(json.loads(line), text=text)


def require_no_spans(names: Iterable[str], *, path: str) -> None:
    """DataError: a table has a column of them."""
    if NOT_LEARNED in names:
        raise unread(f"{path} has a column {NOT_LEARNED}")


def unread(what: str) -> DataError:
    return DataError(
        f"{what}: parts of its texts are not to be learned, which is read of lines of JSON under "
        "the key text alone; give the .jsonl or .jsonl.zst that megacpt curate has written."
    )
