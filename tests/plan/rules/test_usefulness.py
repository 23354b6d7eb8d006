# SPDX-License-Identifier: Apache-2.0
"""Suites of questions that cannot be asked or scored are refused before training."""

from __future__ import annotations

import pytest

from megacpt.config.compose import compose
from megacpt.plan.rules import Facts
from megacpt.plan.rules.usefulness import RULES

SUITE = "evaluate.usefulness.law"
JUDGED = ("metric=judge", "judge.url=https://judge/v1", "judge.model=m")


def broken(*settings: str) -> list[str]:
    words = ["questions=q.jsonl", *(s for s in settings if not s.startswith("command="))]
    config = compose(["experiment=tiny", *(f"{SUITE}.{word}" for word in words)])
    for setting in settings:  # As a YAML file has it, without the quotes of a command line.
        if setting.startswith("command="):
            config.evaluate.usefulness["law"].command = setting.removeprefix("command=")
    return [str(v) for rule in RULES for v in rule(Facts(config=config))]


@pytest.mark.parametrize(
    "settings",
    [
        ("metric=chrf",),
        JUDGED,
        ("metric=future_agi", "future_agi.metric=levenshtein_similarity"),
        ("metric=future_agi", "future_agi.metric=groundedness", "future_agi.cloud=true"),
        ("metric=contains", "command=python3 rag.py --url '{url}'"),
        ("metric=contains", "endpoint=http://127.0.0.1:9/ask"),
    ],
)
def test_suites_that_can_be(settings: tuple[str, ...]) -> None:
    assert broken(*settings) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("metric=judge",), f"{SUITE}.metric=judge needs {SUITE}.judge; set {SUITE}.judge.url="),
        (("metric=future_agi",), f"metric=future_agi needs {SUITE}.future_agi; set"),
        (("metric=chrf", *JUDGED[1:]), f"metric=chrf does not use {SUITE}.judge; set {SUITE}.m"),
        (
            ("metric=future_agi", "future_agi.metric=faithfulness"),
            "future_agi.metric=faithfulness needs a model or a server; use one of equals",
        ),
        (
            ("metric=future_agi", "future_agi.metric=rouge_score", "future_agi.cloud=true"),
            f"rouge_score is wrong for some texts in that package; use {SUITE}.metric=rouge_l",
        ),
        (
            ("metric=contains", "command=rag", "endpoint=http://127.0.0.1:9/ask"),
            f"{SUITE}.command=rag is set beside {SUITE}.endpoint; test one pipeline",
        ),
        (("metric=contains", "command=rag 'x"), "command=rag 'x cannot be cut into a program"),
        (("metric=contains", "endpoint=localhost"), f"{SUITE}.endpoint=localhost is no address"),
        (
            ("metric=judge", "judge.url=https://me:pw@judge/v1", "judge.model=m"),
            f"{SUITE}.judge.url=(not shown) is no address, or one with a name and password",
        ),
        (
            ("metric=chrf", "base.url=ftp://x", "base.model=m"),
            f"{SUITE}.base.url=ftp://x is no address",
        ),
    ],
)
def test_suites_that_cannot_be(settings: tuple[str, ...], message: str) -> None:
    (found,) = broken(*settings)
    assert message in found
    assert "pw" not in found
