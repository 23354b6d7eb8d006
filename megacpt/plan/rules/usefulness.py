# SPDX-License-Identifier: Apache-2.0
"""What the suites of evaluate.usefulness must keep."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from megacpt.config.address import is_usable
from megacpt.config.sections import UsefulnessConfig, UsefulnessMetric
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule

LOCAL_METRICS = (
    *("equals", "starts_with", "ends_with", "levenshtein_similarity"),
    *("is_json", "contains_json", "one_line"),
)
"""Metrics of ai-evaluation that are right in all scripts and need neither model nor server. The
others of its own, such as faithfulness, fetch a model or fall back to counting common words."""
REPLACED = {"rouge_score": "rouge_l", "bleu_score": "bleu"}
"""Wrong there: 0 for scripts other than Latin, and 0.56 for three equal words."""


def _metric_has_its_settings(facts: Facts) -> Iterator[Violation]:
    for path, suite in _suites(facts):
        given = {
            UsefulnessMetric.judge: suite.judge is not None,
            UsefulnessMetric.future_agi: suite.future_agi is not None,
        }
        examples = {"judge": "judge.url=https://HOST/v1", "future_agi": "future_agi.metric=NAME"}
        for metric, is_given in given.items():
            if suite.metric is metric and not is_given:
                yield Violation(
                    path=f"{path}.metric",
                    value=metric.name,
                    rule=f"needs {path}.{metric.name}",
                    remedy=f"set {path}.{examples[metric.name]}",
                )
            if suite.metric is not metric and is_given:
                yield Violation(
                    path=f"{path}.metric",
                    value=suite.metric.name,
                    rule=f"does not use {path}.{metric.name}",
                    remedy=f"set {path}.metric={metric.name}, or {path}.{metric.name}=null",
                )


def _future_agi(facts: Facts) -> Iterator[Violation]:
    for path, suite in _suites(facts):
        asked = suite.future_agi
        if asked is None:
            continue
        replaced = REPLACED.get(asked.metric)
        if replaced is not None:
            yield Violation(
                path=f"{path}.future_agi.metric",
                value=asked.metric,
                rule="is wrong for some texts in that package",
                remedy=f"use {path}.metric={replaced} {path}.future_agi=null",
            )
        elif not asked.cloud and asked.metric not in LOCAL_METRICS:
            yield Violation(
                path=f"{path}.future_agi.metric",
                value=asked.metric,
                rule="needs a model or a server",
                remedy=f"use one of {', '.join(LOCAL_METRICS)}; or send the answers to Future AGI: "
                f"{path}.future_agi.cloud=true",
            )


def _one_pipeline(facts: Facts) -> Iterator[Violation]:
    for path, suite in _suites(facts):
        if suite.command is not None and suite.endpoint is not None:
            yield Violation(
                path=f"{path}.command",
                value=suite.command,
                rule=f"is set beside {path}.endpoint",
                remedy="test one pipeline a suite",
            )
        if suite.command is not None and not _has_words(suite.command):
            yield Violation(
                path=f"{path}.command",
                value=suite.command,
                rule="cannot be cut into a program and its arguments",
                remedy="close its quotes, as in \"python3 rag.py --url '{url}'\"",
            )


def _has_words(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


def _addresses(facts: Facts) -> Iterator[Violation]:
    for path, suite in _suites(facts):
        servers = {"base": suite.base, "candidate": suite.candidate, "judge": suite.judge}
        urls = {f"{n}.url": server.url for n, server in servers.items() if server is not None}
        if suite.endpoint is not None:
            urls["endpoint"] = suite.endpoint
        for name, url in urls.items():
            if not is_usable(url):
                yield Violation(
                    path=f"{path}.{name}",
                    value="(not shown)" if "@" in url else url,
                    rule="is no address, or one with a name and password, which would be written "
                    "down",
                    remedy="write it like https://HOST/v1; keys come from key_variable",
                )


def _suites(facts: Facts) -> Iterator[tuple[str, UsefulnessConfig]]:
    for name, suite in facts.config.evaluate.usefulness.items():
        yield f"evaluate.usefulness.{name}", suite


RULES: tuple[Rule, ...] = (
    _metric_has_its_settings,
    _future_agi,
    _one_pipeline,
    _addresses,
)
