# SPDX-License-Identifier: Apache-2.0
"""What a run demands of its text, in words, and what of it the text has been through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megacpt.corpus.curation import PassedStep, TextOrigin

DONE = {
    "filtered": "filter",
    "deduplicated": "deduplicate",
    "decontaminated": "decontaminate",
    "rewritten": "rewrite",
    "balanced": "balance",
}
"""The step that makes text so; ``decontaminated:SUITE`` asks for one suite."""
NOTHING = "none"


def wanted(text: str | None) -> list[str]:
    """``deduplicated, decontaminated:mmlu`` as words; ``none`` is none."""
    words = [word.strip() for word in (text or "").split(",")]
    return [word for word in words if word and word != NOTHING]


def unknown(text: str | None) -> list[str]:
    """Words that no step makes true."""
    return [word for word in wanted(text) if not _is_known(word)]


def _is_known(word: str) -> bool:
    what, colon, suite = word.partition(":")
    return what in DONE and (not colon or (what == "decontaminated" and suite != ""))


def lacking(text: str | None, *, origins: Sequence[TextOrigin]) -> list[str]:
    """Words that are not true of all of it; of text without a record, none is."""
    true = [{word for step in origin.steps for word in _true_of(step)} for origin in origins]
    return [word for word in wanted(text) if not true or any(word not in of for of in true)]


def common(origins: Sequence[TextOrigin]) -> list[str]:
    """Words that are true of text of all of them."""
    found = [[word for step in origin.steps for word in words_of(step)] for origin in origins]
    first = dict.fromkeys(found[0]) if found else {}
    return [word for word in first if all(word in words for words in found)]


def _true_of(step: PassedStep) -> Iterator[str]:
    """A suite may be demanded by its identity, too: the items under a name change."""
    yield from words_of(step)
    yield from (f"decontaminated:{identity}" for identity in step.suites.values())


def words_of(step: PassedStep) -> Iterator[str]:
    """What is true of text that has been through a step."""
    for word, name in DONE.items():
        if name == step.name and step.settings.get("action") != "report":
            yield word
    yield from (f"decontaminated:{suite}" for suite in step.suites)
