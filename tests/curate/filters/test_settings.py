# SPDX-License-Identifier: Apache-2.0
"""The defaults are datatrove's, which are the papers', and the page states them."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from megacpt.curate.filters.by_datatrove import FILTERS, arguments
from megacpt.curate.filters.settings import (
    C4Config,
    FilterConfig,
    FineWebConfig,
    GopherConfig,
    LanguageConfig,
    PerplexityConfig,
    PersonalConfig,
    RepetitionConfig,
)

PAGE = Path(__file__).parents[3] / "docs" / "curation.md"
OWN = {"stop_chars": tuple(".'\"!?")}
"""FineWeb's, where datatrove's own are others by now."""


@pytest.mark.parametrize("section", FILTERS)
def test_defaults_are_datatrove_s(section: Any) -> None:
    filters = pytest.importorskip("datatrove.pipeline.filters")
    signature = inspect.signature(getattr(filters, FILTERS[section])).parameters
    ours = arguments({f.name: f.default for f in fields(section)})
    theirs = {name: signature[name].default for name in ours} | {
        name: value for name, value in OWN.items() if name in ours
    }
    if "stop_words" in ours:
        from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS

        theirs["stop_words"] = STOP_WORDS
    assert ours == theirs


@pytest.mark.parametrize(
    "section",
    [
        *(LanguageConfig, RepetitionConfig, GopherConfig, C4Config, FineWebConfig),
        *(PerplexityConfig, PersonalConfig),
    ],
)
def test_the_page_states_every_default(section: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [f.name for f in fields(section) if f"`{f.name}{_shown(f.default)}`" not in text]
    assert missing == []


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f": {str(value).lower().replace('none', 'null')}"
    if value is MISSING:
        return ""
    return f": {value:g}" if isinstance(value, float) else f": {value}"


def test_what_is_on_by_default() -> None:
    made = FilterConfig()
    asked = {f.name for f in fields(made) if is_dataclass(getattr(made, f.name))}
    assert asked == {"length", "repetition", "gopher"}
