# SPDX-License-Identifier: Apache-2.0
"""What a suite sends to other machines, and what it may cost, before it does."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from megacpt.config.address import is_local
from megacpt.evaluate.usefulness.suite import QuestionSuite
from megacpt.text import text_size

CLOUD = "Future AGI"
BYTES_A_TOKEN = 4
"""Of English, roughly; what answers are taken to have at most."""


def leaving(suite: QuestionSuite) -> Iterator[str]:
    """A sentence for each receiver on another machine."""
    config, number = suite.config, len(suite.questions)
    questions = sum(len(question.text.encode()) for question in suite.questions)
    answers = number * config.max_tokens * BYTES_A_TOKEN
    for server in (config.base, config.candidate):
        if server is not None and config.command is None and not is_local(server.url):
            yield _sentence(suite, who=server.url, what="questions", size=questions)
    if config.endpoint is not None and not is_local(config.endpoint):
        yield _sentence(suite, who=config.endpoint, what="questions, twice,", size=2 * questions)
    if config.judge is not None and not is_local(config.judge.url):
        size = 2 * questions + 4 * answers
        what = "questions with both answers, in both orders,"
        yield _sentence(suite, who=config.judge.url, what=what, size=size) + (
            f" It is {2 * number} requests, at the price of that server."
        )
    if config.future_agi is not None and config.future_agi.cloud:
        what = "questions with references and both answers"
        yield _sentence(suite, who="", what=what, size=2 * questions + 2 * answers) + (
            f" It is {2 * number} evaluations by {config.future_agi.model}, which {CLOUD} charges "
            "by its price list."
        )


def _sentence(suite: QuestionSuite, *, who: str, what: str, size: int) -> str:
    host = urlsplit(who).hostname if who else CLOUD
    number = len(suite.questions)
    return f"Suite {suite.name} sends {number} {what} at most about {text_size(size)}, to {host}."
