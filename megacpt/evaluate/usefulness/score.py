# SPDX-License-Identifier: Apache-2.0
"""What both answers to each question are worth, by the metric of the suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megacpt.config.sections import UsefulnessConfig, UsefulnessMetric
from megacpt.errors import ConfigError
from megacpt.evaluate.journal import AnswerJournal, key_of
from megacpt.evaluate.usefulness.answer import Answer
from megacpt.evaluate.usefulness.collect import Progress, in_threads
from megacpt.evaluate.usefulness.future_agi import FutureAgi, MetricFailed
from megacpt.evaluate.usefulness.judge import AnswerPair, Judge, PairVerdict, is_asked
from megacpt.evaluate.usefulness.metrics import metric_of
from megacpt.evaluate.usefulness.questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """From 0 to 1; an answer that failed is worth 0. ``problem``: why there is no score, then both
    are 0 and count for nothing. ``agrees``: a judge with itself, where one was asked."""

    base: float = 0.0
    final: float = 0.0
    problem: str = ""
    agrees: bool | None = None


def score_pairs(
    questions: Sequence[Question],
    *,
    base: Sequence[Answer],
    final: Sequence[Answer],
    config: UsefulnessConfig,
    journal: AnswerJournal,
    where: str,
    deadline: float,
    progress: Progress,
) -> list[Scored]:
    """In the order of the questions."""
    pairs = [
        AnswerPair(question=q, base=b, final=f)
        for q, b, f in zip(questions, base, final, strict=True)
    ]
    if config.metric is UsefulnessMetric.judge:
        if config.judge is None:
            raise ConfigError(f"{where}.metric=judge needs {where}.judge.url and .model.")
        judge = Judge(config.judge, known=journal, where=f"{where}.judge")
        return in_threads(
            pairs,
            work=lambda pair: _of_verdict(judge(pair), pair=pair),
            stop=judge.stop,
            concurrency=config.judge.concurrency,
            deadline=deadline,
            progress=progress,
        )
    if config.metric is UsefulnessMetric.future_agi:
        return _by_future_agi(
            pairs, config=config, journal=journal, deadline=deadline, progress=progress
        )
    metric = metric_of(config.metric)
    return [_each(pair, score=lambda a, q: _best(a, q, metric=metric)) for pair in pairs]


def _best(answer: str, question: Question, *, metric: Callable[[str, str], float]) -> float:
    """Beside the reference that it is nearest to."""
    return max(metric(answer, reference) for reference in question.references)


def _each(pair: AnswerPair, *, score: Callable[[str, Question], float]) -> Scored:
    values = [
        0.0 if answer.failure else score(answer.text, pair.question)
        for answer in (pair.base, pair.final)
    ]
    return Scored(base=values[0], final=values[1])


def _of_verdict(verdict: PairVerdict, *, pair: AnswerPair) -> Scored:
    score = verdict.final_score
    if score is None:
        return Scored(problem=verdict.problem)
    return Scored(base=1 - score, final=score, agrees=verdict.agrees if is_asked(pair) else None)


def _by_future_agi(
    pairs: Sequence[AnswerPair],
    *,
    config: UsefulnessConfig,
    journal: AnswerJournal,
    deadline: float,
    progress: Progress,
) -> list[Scored]:
    """What the cloud has said is kept: it was paid."""
    asked = config.future_agi
    if asked is None:
        raise ConfigError("metric=future_agi needs future_agi.metric, the name of one.")
    with FutureAgi(asked) as metrics:

        def score(answer: str, question: Question) -> float:
            given = (question.text, question.references, question.context)
            key = key_of("future_agi", asked.metric, asked.cloud, asked.model, answer, given)
            known = journal.get(key)
            if known is None:
                known = metrics.score(answer, question=question)
                journal.put(key, value=known)
            return float(known)

        def work(pair: AnswerPair) -> Scored:
            try:
                return _each(pair, score=score)
            except MetricFailed as error:
                return Scored(problem=str(error))

        return in_threads(
            pairs,
            work=work,
            stop=metrics.stop,
            concurrency=1,
            deadline=deadline,
            progress=progress,
        )
