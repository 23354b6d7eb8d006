# SPDX-License-Identifier: Apache-2.0
"""The step ``filter``: each document through all rules that are asked for, until one drops it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megacpt.curate.apply import apply_step
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import Document, DocumentBatch
from megacpt.curate.filters.by_datatrove import FILTERS, DatatroveRule, require_words
from megacpt.curate.filters.language import Language
from megacpt.curate.filters.length import Length
from megacpt.curate.filters.perplexity import Perplexity
from megacpt.curate.filters.personal import Personal
from megacpt.curate.filters.rule import FilterRule
from megacpt.curate.filters.settings import (
    FilterConfig,
    LanguageConfig,
    LengthConfig,
    PerplexityConfig,
    PersonalConfig,
)
from megacpt.curate.packages import versions
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, dropped, is_trained_on
from megacpt.errors import ConfigError
from megacpt.families.stored.fingerprint import fingerprint
from megacpt.text import listed

MANY = 1 << 10


def run(corpus: Corpus, *, settings: FilterConfig, context: Context) -> StepOutcome:
    step = FilterStep(settings=settings)
    require_sources(corpus, settings=settings)
    step.open()  # What is missing is said before anything is read.
    return apply_step(corpus, step=step, context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterStep:
    settings: FilterConfig
    name: str = "filter"

    @property
    def threads_max(self) -> int:
        """One process where a model is at work, which takes all cores by itself."""
        return 1 if self.settings.perplexity is None else MANY

    def to_json(self) -> Mapping[str, Any]:
        asked, model = asdict(self.settings), self.settings.perplexity
        if model is not None:
            asked["perplexity"]["model_fingerprint"] = fingerprint(Path(model.model))
        return {**asked, "versions": versions(_packages(self.settings))}

    def concerns(self, source: TextSource) -> bool:
        names = source_names(self.settings)
        return source.name in names if names else is_trained_on(source)

    def open(self) -> Judge:
        return partial(_judge, rules=open_rules(self.settings), lock=threading.Lock())


def source_names(settings: FilterConfig) -> list[str]:
    return [name.strip() for name in (settings.sources or "").split(",") if name.strip()]


def require_sources(corpus: Corpus, *, settings: FilterConfig) -> None:
    """ConfigError: ``filter.sources`` names one that is not there."""
    known = [source.name for source in corpus.sources]
    if unknown := [name for name in source_names(settings) if name not in known]:
        raise ConfigError(
            f"filter.sources={settings.sources} names {listed(unknown)}, and the sources are "
            f"{listed(known)}; name one of these."
        )


def open_rules(settings: FilterConfig, *, is_measuring: bool = False) -> dict[str, FilterRule]:
    """By section, in the order of their work; ``is_measuring``: nothing is beyond a limit."""
    if any(type(section) in FILTERS for section in _sections(settings).values()):
        require_words(settings.words)
    return {
        name: _rule(section, language=settings.words, is_measuring=is_measuring)
        for name, section in _sections(settings).items()
    }


def _rule(section: Any, *, language: str, is_measuring: bool) -> FilterRule:
    match section:
        case LengthConfig():
            return Length(section, is_measuring=is_measuring)
        case LanguageConfig():
            return Language(section, is_measuring=is_measuring)
        case PerplexityConfig():
            return Perplexity(section, is_measuring=is_measuring)
        case PersonalConfig():
            return Personal(section)
        case _:
            return DatatroveRule(section, language=language, is_measuring=is_measuring)


def _sections(settings: FilterConfig) -> dict[str, Any]:
    """Those asked for, in the order in which the settings have them."""
    found = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: section for name, section in found.items() if is_dataclass(section)}


def _packages(settings: FilterConfig) -> set[str]:
    """On which the verdicts depend."""
    found = set()
    for section in _sections(settings).values():
        match section:
            case LengthConfig():
                pass
            case LanguageConfig():
                found |= {"py3langid"}
            case PersonalConfig(phone_region=str()):
                found |= {"phonenumbers"}
            case PerplexityConfig():
                found |= {"torch", "transformers"}
            case PersonalConfig():
                pass
            case _:
                found |= {"datatrove", "spacy"}
    return found


def _judge(
    batch: DocumentBatch, *, rules: Mapping[str, FilterRule], lock: threading.Lock
) -> Sequence[DocumentVerdict]:
    with lock:  # A rule's limits remember one text at a time.
        return [_verdict(document, rules=rules) for document in batch.documents]


def _verdict(document: Document, *, rules: Mapping[str, FilterRule]) -> DocumentVerdict:
    text, changes = document.text, list[str]()
    detail: dict[str, Any] = {}
    for rule in rules.values():
        for limit in rule.limits.values():
            limit.forget()
        found = rule(text)
        if found.dropped:
            return dropped(found.dropped, **found.detail)
        changes += found.changes
        detail |= found.detail
        text = found.text
        if found.changes and not text.strip():
            return dropped(found.changes[0], **found.detail)
    if not changes:
        return KEPT
    first, *others = changes
    left = document.with_text(text)
    return DocumentVerdict(rule=first, also=tuple(others), document=left, detail=detail)
