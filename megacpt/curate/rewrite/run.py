# SPDX-License-Identifier: Apache-2.0
"""The step: texts of records, then what a model makes of them, then the middle of code moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megacpt.curate.apply import apply_step
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.rewrite.drafts import Draft, Drafter
from megacpt.curate.rewrite.endpoint import Reviser
from megacpt.curate.rewrite.estimate import estimate_requests, require_consent
from megacpt.curate.rewrite.fill import move_middle, require_tokens
from megacpt.curate.rewrite.settings import EndpointConfig, FillConfig, RewriteConfig
from megacpt.curate.rewrite.templates import Templates, read_prompt
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, is_trained_on
from megacpt.errors import ConfigError
from megacpt.text import listed

VERSION = 1
"""Of what is made of a record with the same settings and templates."""


def run(corpus: Corpus, *, settings: RewriteConfig, context: Context) -> StepOutcome:
    findings: dict[str, Any] = {}
    fingerprint = None
    if settings.fill_in_the_middle is not None:
        fingerprint = require_tokens(settings.fill_in_the_middle, notice=context.notice)
    sent = pieces_of(corpus, section=settings.endpoint, name="endpoint")
    if settings.endpoint is not None:
        found = estimate_requests(corpus, settings=settings, numbers=sorted(sent), context=context)
        findings["endpoint"] = asdict(found)
        context.notice(found.told(settings.endpoint))
        if not context.dry_run:
            require_consent(found, settings=settings.endpoint)
    step = Rewriting(
        settings=settings,
        sent=frozenset() if context.dry_run else sent,
        filled=pieces_of(corpus, section=settings.fill_in_the_middle, name="fill_in_the_middle"),
        tokenizer=fingerprint,
    )
    return apply_step(corpus, step=step, context=context, findings=findings)


def pieces_of(
    corpus: Corpus, *, section: EndpointConfig | FillConfig | None, name: str
) -> frozenset[int]:
    """Numbers of the pieces of the sources that a section names."""
    if section is None:
        return frozenset()
    names = [word.strip() for word in section.sources.split(",")]
    known = [source.name for source in corpus.sources if is_trained_on(source)]
    if unknown := [word for word in names if word not in known]:
        raise ConfigError(
            f"rewrite.{name}.sources={section.sources}: {listed(unknown)} is no source that is "
            f"trained on; there {'is' if len(known) == 1 else 'are'} {listed(known) or 'none'}."
        )
    return frozenset(corpus.pieces_of(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    settings: RewriteConfig
    sent: frozenset[int]
    """Pieces that a model rewrites."""
    filled: frozenset[int]
    """Pieces of code."""
    tokenizer: str | None
    """Fingerprint of that which has the tokens."""
    name: str = "rewrite"

    @property
    def threads_max(self) -> int:
        """Requests are waited for in the threads of one process, which are told how many may be
        under way; all else holds Python's lock."""
        return 1 << 16 if self.sent else 1

    def to_json(self) -> Mapping[str, Any]:
        told = to_json(self.settings)
        told["templates_sha256"] = Templates(self.settings.templates).sha256
        told["tokenizer"] = self.tokenizer
        return told

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source) or source.shape is not None

    def open(self) -> Judge:
        draft = Drafter(self.settings)
        endpoint = self.settings.endpoint
        revise = Reviser(endpoint) if endpoint is not None and self.sent else None
        return _Rewriter(step=self, draft=draft, revise=revise)


def to_json(settings: RewriteConfig) -> dict[str, Any]:
    """What the result depends on: of the endpoint not how it is reached, nor what may be spent."""
    told = asdict(settings) | {"raw_pairs": settings.raw_pairs.value, "version": VERSION}
    if settings.endpoint is not None:
        kept = ("url", "model", "sources", "prompt", "max_tokens", "temperature", "extra")
        told["endpoint"] = {name: told["endpoint"][name] for name in kept}
        told["endpoint"]["prompt_text"] = read_prompt(settings.endpoint.prompt)
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rewriter:
    step: Rewriting
    draft: Callable[..., Draft]
    revise: Callable[[Sequence[Draft]], list[Draft]] | None

    def __call__(self, batch: DocumentBatch) -> Sequence[DocumentVerdict]:
        drafts = [self.draft(document) for document in batch.documents]
        if self.revise is not None and batch.piece in self.step.sent:
            drafts = self.revise(drafts)
        settings = self.step.settings.fill_in_the_middle
        if settings is not None and batch.piece in self.step.filled:
            drafts = [_filled(draft, settings=settings) for draft in drafts]
        return [_verdict(draft, before=d) for draft, d in zip(drafts, batch.documents, strict=True)]


def _filled(draft: Draft, *, settings: FillConfig) -> Draft:
    if draft.drops:
        return draft
    found = move_middle(draft.document.text, id=draft.document.id, settings=settings)
    if found.order == "kept":
        return draft
    if found.order == "marked":
        return draft.noting("holds a token of fill_in_the_middle")
    return draft.with_text(found.text, rule=found.order, middle=found.order)


def _verdict(draft: Draft, *, before: object) -> DocumentVerdict:
    if not draft.rule:
        return KEPT
    changed = None if draft.drops or draft.document is before else draft.document
    return DocumentVerdict(
        rule=draft.rule, drops=draft.drops, document=changed, detail=draft.detail
    )
