# SPDX-License-Identifier: Apache-2.0
"""Many questions asked at once, each only once, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from megacpt.errors import EnvironmentError_
from megacpt.evaluate.journal import AnswerJournal
from megacpt.evaluate.usefulness.answer import Answer, Answerer
from megacpt.evaluate.usefulness.questions import Question

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told how many of how many are done."""


def collect(
    questions: Sequence[Question],
    *,
    answerer: Answerer,
    journal: AnswerJournal,
    concurrency: int,
    deadline: float,
    progress: Progress,
) -> list[Answer]:
    """In the order of the questions. Failures are not written down: the next start asks again."""

    def ask(question: Question) -> Answer:
        key = answerer.key(question)
        known = journal.get(key)
        if known is not None:
            return Answer(text=known)
        answer = answerer(question)
        if not answer.failure:
            journal.put(key, value=answer.text)
        return answer

    return in_threads(
        questions,
        work=ask,
        stop=answerer.stop,
        concurrency=concurrency,
        deadline=deadline,
        progress=progress,
    )


def in_threads(
    items: Sequence[S],
    *,
    work: Callable[[S], T],
    stop: Callable[[], None],
    concurrency: int,
    deadline: float,
    progress: Progress,
) -> list[T]:
    """Results in order. ``stop``: called where one fails or the time (of ``time.monotonic``) ends,
    so that what is under way ends soon."""
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="usefulness")
    futures = [pool.submit(work, item) for item in items]
    is_done = False
    try:
        _watch(futures, deadline=deadline, progress=progress)
        is_done = True
    finally:
        if not is_done:
            stop()
        pool.shutdown(wait=is_done, cancel_futures=True)
    return [future.result() for future in futures]


def _watch(futures: Iterable[Future[T]], *, deadline: float, progress: Progress) -> None:
    """Until all are done; raises what the first that failed has raised."""
    left = set(futures)
    total = len(left)
    while left:
        done, left = wait(
            left, timeout=max(deadline - time.monotonic(), 0), return_when=FIRST_COMPLETED
        )
        for future in done:
            future.result()
        progress(total - len(left), total)
        if not done:
            raise EnvironmentError_(
                f"the time limit came after {total - len(left)} of {total}; start the same command "
                "again to go on, or raise limit_minutes of the suite."
            )
