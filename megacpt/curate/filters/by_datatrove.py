# SPDX-License-Identifier: Apache-2.0
"""Rules that are datatrove's own filters, with what they measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from megacpt.config.schema import is_optional
from megacpt.curate.filters.rule import Ruling, beyond
from megacpt.curate.filters.settings import (
    C4Config,
    FineWebConfig,
    GopherConfig,
    RepetitionConfig,
)
from megacpt.curate.filters.threshold import Threshold
from megacpt.curate.packages import need
from megacpt.errors import ConfigError

FILTERS = {
    RepetitionConfig: "GopherRepetitionFilter",
    GopherConfig: "GopherQualityFilter",
    C4Config: "C4QualityFilter",
    FineWebConfig: "FineWebQualityFilter",
}
"""Of each section of the settings datatrove's class, in the order of FineWeb's pipeline."""
C4_LINES = "line-filter-"


def require_words(language: str) -> None:
    """ConfigError: datatrove cannot cut text of the language into words."""
    tokenizers = need("datatrove.utils.word_tokenizers")
    try:
        tokenizers.load_word_tokenizer(language).word_tokenize("a")
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"filter.words={language} cannot be used: {error}; use eng, or install what it asks "
            "for."
        ) from error


class DatatroveRule:
    """``is_measuring``: with limits that nothing is beyond."""

    def __init__(self, section: Any, *, language: str, is_measuring: bool = False) -> None:
        hints = get_type_hints(type(section))
        values = {f.name: getattr(section, f.name) for f in fields(section)}
        self.limits: Mapping[str, Threshold] = {
            name: Threshold(None if is_measuring else value)
            for name, value in values.items()
            if is_optional(hints[name])
        }
        name = FILTERS[type(section)]
        made_of = arguments(values | self.limits) | {"language": language}
        self._filter: Any = getattr(need("datatrove.pipeline.filters"), name)(**made_of)
        self._document: Callable[..., Any] = need("datatrove.data").Document

    def __call__(self, text: str) -> Ruling:
        if not any(map(str.isalnum, text)):
            # They divide by numbers of words and lines.
            return Ruling(text=text, dropped="no_words")
        lines: dict[str, int] = {}
        self._filter.stat_update = lambda *names, **_: _count(names, into=lines)
        document = self._document(text=text, id="")
        kept = self._filter.filter(document)
        if kept is True:
            changes = ("c4_lines",) if document.text != text else ()
            return Ruling(text=document.text, changes=changes, detail=lines if changes else {})
        _, reason = kept
        return beyond(text, name=reason, rule=self)


def _count(names: tuple[str, ...], *, into: dict[str, int]) -> None:
    """Lines that C4's filter takes out, by its reason."""
    for name in names:
        if name.startswith(C4_LINES):
            reason = name.removeprefix(C4_LINES)
            into[reason] = into.get(reason, 0) + 1


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of datatrove's class."""
    found = dict(values)
    if "stop_words" in found:
        found["stop_words"] = [word.strip() for word in found["stop_words"].split(",")]
    if "stop_chars" in found:
        found["stop_chars"] = tuple(found["stop_chars"])
    for list_name, pattern in (
        ("top_n_grams", "top_{}_gram"),
        ("dup_n_grams", "duplicated_{}_n_grams"),
    ):
        pairs = [(n, found.pop(pattern.format(n))) for n in range(11) if pattern.format(n) in found]
        if pairs:
            found[list_name] = tuple(pairs)
    return found
