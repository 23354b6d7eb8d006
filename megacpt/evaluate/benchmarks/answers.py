# SPDX-License-Identifier: Apache-2.0
"""What a model has answered already: a journal that grows, one model a file.

Asked again, such as by another suite, after an interruption or with more items, an answer is taken
from there. Its key is all that it depends on but the model, by tokens: a prompt that changes asks
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from megacpt.evaluate.benchmarks.progress import Progress
from megacpt.evaluate.journal import AnswerJournal

Q = TypeVar("Q")
AT_ONCE = 4096
"""Answers that an interruption may cost."""


def answered(
    questions: Sequence[Q],
    *,
    journal: AnswerJournal,
    key: Callable[[Q], str],
    ask: Callable[[Sequence[Q]], Sequence[Any]],
    progress: Progress,
) -> list[Any]:
    """In the order of the questions, as JSON holds them; each that is unknown is asked once."""
    keys = [key(question) for question in questions]
    asked = dict(zip(keys, questions, strict=True))
    unknown = [each for each in asked if journal.get(each) is None]
    for start in range(0, len(unknown), AT_ONCE):
        some = unknown[start : start + AT_ONCE]
        progress.part(before=start, count=len(some), total=len(unknown))
        journal.put_all(dict(zip(some, ask([asked[each] for each in some]), strict=True)))
    return [journal.get(each) for each in keys]
