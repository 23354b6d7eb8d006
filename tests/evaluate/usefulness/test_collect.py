# SPDX-License-Identifier: Apache-2.0
"""Many at once: order, what is known, failures, the end of the time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megacpt.errors import EnvironmentError_
from megacpt.evaluate.journal import AnswerJournal
from megacpt.evaluate.usefulness.answer import Answer
from megacpt.evaluate.usefulness.collect import collect
from megacpt.evaluate.usefulness.questions import Question
from tests.evaluate.usefulness.cases import QUESTIONS, no_progress


@dataclass(kw_only=True)
class Answerer:
    """Fails at some of the questions, or takes for ever until it is stopped."""

    failing: set[str] = field(default_factory=set)
    raising: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def key(self, question: Question) -> str:
        return question.id

    def __call__(self, question: Question) -> Answer:
        self.asked.append(question.id)
        if question.id in self.raising:
            raise EnvironmentError_("the server is down")
        if question.id in self.hanging:
            self.stopped.wait(30)
        time.sleep(0.001 * (len(QUESTIONS) - len(self.asked)))
        return Answer(failure="no") if question.id in self.failing else Answer(text=question.id)

    def stop(self) -> None:
        self.stopped.set()


def ask(path: Path, *, answerer: Answerer, limit_s: float = 60.0) -> list[Answer]:
    journal = AnswerJournal(path)
    try:
        return collect(
            QUESTIONS,
            answerer=answerer,
            journal=journal,
            concurrency=3,
            deadline=time.monotonic() + limit_s,
            progress=no_progress,
        )
    finally:
        journal.close()


def test_answers_are_in_order_and_asked_once(tmp_path: Path) -> None:
    found = ask(tmp_path / "j", answerer=Answerer())
    assert [answer.text for answer in found] == [question.id for question in QUESTIONS]
    again = Answerer()
    assert ask(tmp_path / "j", answerer=again) == found
    assert again.asked == []


def test_failures_are_asked_again(tmp_path: Path) -> None:
    found = ask(tmp_path / "j", answerer=Answerer(failing={"q3"}))
    assert found[3] == Answer(failure="no")
    again = Answerer()
    assert ask(tmp_path / "j", answerer=again)[3].text == "q3"
    assert again.asked == ["q3"]


def test_an_error_ends_it_and_keeps_what_is_known(tmp_path: Path) -> None:
    first = Answerer(raising={"q5"})
    with pytest.raises(EnvironmentError_, match="the server is down"):
        ask(tmp_path / "j", answerer=first)
    assert first.stopped.is_set()
    again = Answerer()
    ask(tmp_path / "j", answerer=again)
    assert 1 <= len(again.asked) < len(QUESTIONS)


def test_the_time_ends_it(tmp_path: Path) -> None:
    first = Answerer(hanging={"q11"})
    with pytest.raises(EnvironmentError_, match=r"the time limit came after 11 of 12; start"):
        ask(tmp_path / "j", answerer=first, limit_s=1.0)
    assert first.stopped.is_set()
    again = Answerer()
    ask(tmp_path / "j", answerer=again)
    assert set(again.asked) <= {"q11"}
