# SPDX-License-Identifier: Apache-2.0
"""Questions and models of the tests here."""

from __future__ import annotations

from pathlib import Path

from megacpt.config.sections import UsefulnessConfig, UsefulnessMetric
from megacpt.evaluate.usefulness.answer import Target
from megacpt.evaluate.usefulness.questions import Question
from megacpt.evaluate.usefulness.suite import QuestionSuite

QUESTIONS = tuple(
    Question(id=f"q{n}", cluster=f"c{n % 3}", prompt=f"{n}+{n}=", references=(str(2 * n),))
    for n in range(12)
)


def target(url: str = "http://127.0.0.1:9/v1", *, role: str = "final") -> Target:
    return Target(role=role, fingerprint=f"weights of {role}", url=url, name=role)


def no_progress(done: int, total: int) -> None:
    assert 0 < done <= total


def suite_of(
    folder: Path,
    *,
    metric: str = "exact_match",
    questions: tuple[Question, ...] = QUESTIONS,
    **settings: object,
) -> QuestionSuite:
    config = UsefulnessConfig(
        questions="questions.jsonl",
        metric=UsefulnessMetric[metric],
        **settings,  # type: ignore[arg-type]
    )
    return QuestionSuite(name="sums", config=config, questions=questions, folder=folder)
