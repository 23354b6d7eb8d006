# SPDX-License-Identifier: Apache-2.0
"""A judge behind a server: both orders, ties, replies that are no verdict."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megacpt.config.sections import JudgeConfig
from megacpt.errors import EnvironmentError_
from megacpt.evaluate.journal import AnswerJournal
from megacpt.evaluate.usefulness import judge as judging
from megacpt.evaluate.usefulness.answer import Answer
from megacpt.evaluate.usefulness.judge import AnswerPair, Judge, PairVerdict
from megacpt.evaluate.usefulness.questions import Question
from tests.openai_server import Server, said, served

QUESTION = Question(
    id="q", cluster="q", prompt="Why?", references=("So.",), rubric="Short?", context="Facts."
)
PAIR = AnswerPair(question=QUESTION, base=Answer(text="bad"), final=Answer(text="good"))


def verdict(winner: str) -> str:
    return json.dumps({"reason": "x", "verdict": winner})


def judged(folder: Path, server: Server, *, pair: AnswerPair = PAIR) -> PairVerdict:
    journal = AnswerJournal(folder / "j")
    try:
        config = JudgeConfig(url=server.url, model="judge", retries=0)
        return Judge(config, known=journal, where="w")(pair)
    finally:
        journal.close()


def by_place(prompt: str) -> str:
    return verdict("A")


def by_text(prompt: str) -> str:
    answers = prompt.partition("## Answer A\n")[2]
    return verdict("A" if answers.index("good") < answers.index("bad") else "B")


def by_nothing(prompt: str) -> str:
    return verdict("tie")


@pytest.mark.parametrize(
    ("choose", "winners", "score"),
    [
        (by_text, ("final", "final"), 1.0),
        (by_place, ("base", "final"), 0.5),
        (by_nothing, ("tie", "tie"), 0.5),
    ],
)
def test_both_orders_count(
    tmp_path: Path, choose: Callable[[str], str], winners: tuple[str, str], score: float
) -> None:
    with served(Server(answer=lambda prompt, time: said(choose(prompt)))) as server:
        found = judged(tmp_path, server)
        assert found.winners == winners
        assert found.final_score == score
        assert found.agrees == (choose is not by_place)
        assert judged(tmp_path, server) == found
    first, second = (body["messages"][1]["content"] for body in server.bodies)
    assert first.index("bad") < first.index("good")
    assert second.index("good") < second.index("bad")
    for text in ("Why?", "So.", "Short?", "Facts."):
        assert text in first
    assert all(body["temperature"] == 0 for body in server.bodies)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("A", "no JSON object with a verdict: A"),
        (f"Here: {verdict('A')}", "no JSON object"),
        (f"```json\n{verdict('A')}\n```", "no JSON object"),
        ('["A"]', "no JSON object"),
        ('{"verdict": "A", "score": 1}', "no JSON object"),
        ('{"verdict": "C"}', "verdict=C is not A, B or tie"),
        ('{"reason": "A"}', "verdict=None is not A, B or tie"),
        ('{"verdict": ["A"]}', "is not A, B or tie"),
    ],
)
def test_replies_that_are_no_verdict(tmp_path: Path, reply: str, problem: str) -> None:
    with served(Server(answer=lambda prompt, time: said(reply))) as server:
        found = judged(tmp_path, server)
    assert found.final_score is None
    assert problem in found.problem


def test_a_reply_that_was_cut_is_told_as_such(tmp_path: Path) -> None:
    """As reasoning models do it, whose thoughts count."""
    cut = said('{"reason": "x", "ver', finish="length")
    with served(Server(answer=lambda prompt, time: cut)) as server:
        assert judged(tmp_path, server).problem == "reply over max_tokens"


def test_a_verdict_in_one_order_is_none(tmp_path: Path) -> None:
    replies = itertools.cycle([verdict("A"), "well"])
    with served(Server(answer=lambda prompt, time: said(next(replies)))) as server:
        assert judged(tmp_path, server).final_score is None


def test_a_refused_question_is_a_problem_and_a_server_that_is_down_an_error(
    tmp_path: Path,
) -> None:
    with served(Server(answer=lambda prompt, time: (400, {"error": "too long"}))) as server:
        assert judged(tmp_path, server).problem == "refused: 400 too long"
    with (
        served(Server(answer=lambda prompt, time: (503, {}))) as server,
        pytest.raises(EnvironmentError_, match="verdicts are kept"),
    ):
        judged(tmp_path, server)


@pytest.mark.parametrize(
    ("base", "final", "score"), [("", "no", 0.0), ("no", "", 1.0), ("no", "no", 0.5)]
)
def test_who_gives_no_answer_loses_without_a_judge(
    tmp_path: Path, base: str, final: str, score: float
) -> None:
    pair = AnswerPair(
        question=QUESTION,
        base=Answer(text="" if base else "x", failure=base),
        final=Answer(text="" if final else "x", failure=final),
    )
    server = Server(answer=lambda prompt, time: said("x"), url="http://127.0.0.1:9/v1")
    assert judged(tmp_path, server, pair=pair).final_score == score


def test_a_verdict_is_read_strictly() -> None:
    assert judging.verdict_of(' {"verdict": "tie"}\n') == "tie"
