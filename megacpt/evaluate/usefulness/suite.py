# SPDX-License-Identifier: Apache-2.0
"""One suite: both models' answers, what they are worth, and the files that say so."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacpt.config.sections import UsefulnessConfig, UsefulnessMetric
from megacpt.errors import EnvironmentError_
from megacpt.evaluate.items import Item, Scores, write_scores
from megacpt.evaluate.journal import AnswerJournal
from megacpt.evaluate.usefulness.answer import Answer, Answerer, Target
from megacpt.evaluate.usefulness.collect import Progress, collect
from megacpt.evaluate.usefulness.model import ModelAnswerer
from megacpt.evaluate.usefulness.pipeline import CommandAnswerer, HttpAnswerer
from megacpt.evaluate.usefulness.questions import Question
from megacpt.evaluate.usefulness.score import Scored, score_pairs
from megacpt.files import json_line, write_parts, write_text

ROLES = ("base", "final")
SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSuite:
    """``name``: the setting evaluate.usefulness.NAME. ``folder``: RUN_DIR/usefulness."""

    name: str
    config: UsefulnessConfig
    questions: tuple[Question, ...]
    folder: Path

    @property
    def where(self) -> str:
        return f"evaluate.usefulness.{self.name}"

    def journal(self, of: str) -> AnswerJournal:
        return AnswerJournal(self.folder / "journal" / f"{self.name}.{of}.jsonl")

    @property
    def deadline(self) -> float:
        return time.monotonic() + self.config.limit_minutes * SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``failures``: answers of each model that failed, by reason. ``unscored``: items left out of
    both models' scores, by reason. ``agreement``: of a judge with itself, None without one."""

    suite: str
    metric: str
    num_questions: int
    num_scored: int
    base: float
    final: float
    wins: int
    ties: int
    losses: int
    agreement: float | None
    failures: Mapping[str, Mapping[str, int]]
    unscored: Mapping[str, int]


def answer(suite: QuestionSuite, *, target: Target, progress: Progress) -> list[Answer]:
    """Of one model, in the order of the questions; what is known from before is not asked."""
    with closing(suite.journal(target.role)) as journal:
        answers = collect(
            suite.questions,
            answerer=_answerer(suite, target=target),
            journal=journal,
            concurrency=suite.config.concurrency,
            deadline=suite.deadline,
            progress=progress,
        )
    failures = [found.failure for found in answers if found.failure]
    _require_few(failures, of=f"answers of the {target.role} model", suite=suite)
    return answers


def score(
    suite: QuestionSuite,
    *,
    answers: Mapping[str, Sequence[Answer]],
    fingerprints: Mapping[str, str],
    progress: Progress,
) -> Outcome:
    """Write the scores of both models, RUN_DIR/usefulness/{base,final}/SUITE.jsonl, what stood in
    the answers, and the summary. All by role."""
    with closing(suite.journal("verdicts")) as journal:
        scored = score_pairs(
            suite.questions,
            base=answers["base"],
            final=answers["final"],
            config=suite.config,
            journal=journal,
            where=suite.where,
            deadline=suite.deadline,
            progress=progress,
        )
    _require_few([s.problem for s in scored if s.problem], of="verdicts", suite=suite)
    for role in ROLES:
        write_scores(
            suite.folder / role / f"{suite.name}.jsonl",
            scores=Scores(
                suite=suite.name,
                metric=metric_name(suite.config),
                model=fingerprints[role],
                items=tuple(_items(suite.questions, scored=scored, role=role)),
            ),
        )
    rows = _rows(suite.questions, answers=answers, scored=scored)
    write_parts(suite.folder / "answers" / f"{suite.name}.jsonl", parts=map(json_line, rows))
    outcome = _outcome(suite, answers=answers, scored=scored)
    text = json.dumps(asdict(outcome), indent=2, ensure_ascii=False)
    write_text(suite.folder / f"{suite.name}.json", text=f"{text}\n")
    return outcome


def metric_name(config: UsefulnessConfig) -> str:
    if config.metric is UsefulnessMetric.future_agi and config.future_agi is not None:
        return config.future_agi.metric
    return config.metric.name


def _answerer(suite: QuestionSuite, *, target: Target) -> Answerer:
    config = suite.config
    if config.command is not None:
        return CommandAnswerer(
            config.command,
            target=target,
            timeout_s=config.timeout_s,
            where=f"{suite.where}.command",
        )
    if config.endpoint is not None:
        return HttpAnswerer(
            config.endpoint, target=target, timeout_s=config.timeout_s, retries=config.retries
        )
    setting = "base" if target.role == "base" else "candidate"
    return ModelAnswerer(config, target=target, where=f"{suite.where}.{setting}")


def _require_few(failures: Sequence[str], *, of: str, suite: QuestionSuite) -> None:
    total = len(suite.questions)
    if len(failures) > suite.config.failures_max * total:
        reason, times = next(iter(_counted(failures).items()))
        raise EnvironmentError_(
            f"{len(failures)} of {total} {of} to suite {suite.name} failed, more than the share "
            f"{suite.where}.failures_max={suite.config.failures_max:g}; {times} times: {reason}. "
            "See to it and start the same command again: the others are kept."
        )


def _items(questions: Sequence[Question], *, scored: Sequence[Scored], role: str) -> Iterable[Item]:
    for question, found in zip(questions, scored, strict=True):
        if not found.problem:
            value = found.base if role == "base" else found.final
            yield Item(id=question.id, cluster=question.cluster, score=value)


def _rows(
    questions: Sequence[Question],
    *,
    answers: Mapping[str, Sequence[Answer]],
    scored: Sequence[Scored],
) -> Iterable[dict[str, Any]]:
    """What a person browses."""
    both = zip(questions, answers["base"], answers["final"], scored, strict=True)
    for question, base, final, found in both:
        yield {
            "id": question.id,
            "question": question.text,
            "base": asdict(base) | {"score": found.base},
            "final": asdict(final) | {"score": found.final},
            "problem": found.problem,
        }


def _outcome(
    suite: QuestionSuite, *, answers: Mapping[str, Sequence[Answer]], scored: Sequence[Scored]
) -> Outcome:
    counted = [found for found in scored if not found.problem]
    agreeing = [found.agrees for found in counted if found.agrees is not None]
    return Outcome(
        suite=suite.name,
        metric=metric_name(suite.config),
        num_questions=len(scored),
        num_scored=len(counted),
        base=sum(found.base for found in counted) / max(len(counted), 1),
        final=sum(found.final for found in counted) / max(len(counted), 1),
        wins=sum(found.final > found.base for found in counted),
        ties=sum(found.final == found.base for found in counted),
        losses=sum(found.final < found.base for found in counted),
        agreement=sum(agreeing) / len(agreeing) if agreeing else None,
        failures={role: _counted(a.failure for a in answers[role] if a.failure) for role in ROLES},
        unscored=_counted(found.problem for found in scored if found.problem),
    )


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    """The most frequent first."""
    return dict(Counter(reasons).most_common())
