# SPDX-License-Identifier: Apache-2.0
"""A suite from its questions to the files of scores, with servers of the test as models."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import JudgeConfig
from megacpt.endpoint import client
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.evaluate.items import read_scores
from megacpt.evaluate.usefulness import suite as suites
from megacpt.evaluate.usefulness.leaving import leaving
from megacpt.evaluate.usefulness.suite import Outcome, QuestionSuite
from tests.evaluate.usefulness.cases import QUESTIONS, no_progress, suite_of, target
from tests.openai_server import Answer, Server, said, served

FINGERPRINTS = {"base": "weights of base", "final": "weights of final"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)


def completion(text: str) -> Answer:
    return 200, {"choices": [{"index": 0, "text": text, "finish_reason": "length"}]}


def right(prompt: str, time: int) -> Answer:
    return completion(f" {2 * int(prompt.partition('+')[0])}")


def half_right(prompt: str, time: int) -> Answer:
    number = int(prompt.partition("+")[0])
    return completion(" 0" if number % 2 else f" {2 * number}")


def run(suite: QuestionSuite, *, servers: Mapping[str, Server]) -> Outcome:
    answers = {
        role: suites.answer(suite, target=target(server.url, role=role), progress=no_progress)
        for role, server in servers.items()
    }
    return suites.score(suite, answers=answers, fingerprints=FINGERPRINTS, progress=no_progress)


def files(folder: Path) -> dict[str, bytes]:
    found = [p for p in folder.rglob("*") if p.is_file() and "journal" not in p.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_both_models_scores_are_paired_by_id(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    with served(Server(answer=half_right)) as base, served(Server(answer=right)) as final:
        outcome = run(suite, servers={"base": base, "final": final})
    scores = {role: read_scores(tmp_path / role / "sums.jsonl") for role in ("base", "final")}
    for role, found in scores.items():
        assert [item.id for item in found.items] == [question.id for question in QUESTIONS]
        assert [item.cluster for item in found.items] == [q.cluster for q in QUESTIONS]
        assert (found.suite, found.metric) == ("sums", "exact_match")
        assert found.model == FINGERPRINTS[role]
    assert (scores["base"].mean, scores["final"].mean) == (0.5, 1.0)
    assert (outcome.base, outcome.final) == (0.5, 1.0)
    assert (outcome.wins, outcome.ties, outcome.losses) == (6, 6, 0)
    assert json.loads((tmp_path / "sums.json").read_text())["num_scored"] == 12
    row = json.loads((tmp_path / "answers" / "sums.jsonl").read_text().splitlines()[1])
    assert (row["base"]["text"], row["final"]["text"]) == (" 0", " 2")
    assert (row["base"]["score"], row["final"]["score"]) == (0, 1)
    assert all(body["temperature"] == 0 and body["max_tokens"] == 256 for body in base.bodies)


def test_it_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    """After a server that fails at one question, and after nothing at all."""
    broken = threading.Event()

    def answer(prompt: str, time: int) -> Answer:
        return (
            (401, {"error": "expired"})
            if prompt == "7+7=" and not broken.is_set()
            else right(prompt, time)
        )

    with served(Server(answer=right)) as base, served(Server(answer=answer)) as final:
        servers = {"base": base, "final": final}
        with pytest.raises(EnvironmentError_, match=r"401 expired.*answers are kept"):
            run(suite_of(tmp_path / "a", concurrency=1), servers=servers)
        assert files(tmp_path / "a") == {}
        broken.set()
        asked = len(final.bodies)
        run(suite_of(tmp_path / "a", concurrency=1), servers=servers)
        assert 1 <= len(final.bodies) - asked <= 6
        assert len(base.bodies) == len(QUESTIONS)
        run(suite_of(tmp_path / "b"), servers=servers)
        before = len(base.bodies) + len(final.bodies)
        run(suite_of(tmp_path / "b"), servers=servers)
        assert len(base.bodies) + len(final.bodies) == before
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_answers_that_fail_are_worth_nothing_and_counted(tmp_path: Path) -> None:
    def answer(prompt: str, time: int) -> Answer:
        return completion(" ") if prompt == "0+0=" else right(prompt, time)

    with served(Server(answer=right)) as base, served(Server(answer=answer)) as final:
        servers = {"base": base, "final": final}
        outcome = run(suite_of(tmp_path / "a"), servers=servers)
        assert outcome.failures == {"base": {}, "final": {"empty": 1}}
        assert read_scores(tmp_path / "a" / "final" / "sums.jsonl").items[0].score == 0
        with pytest.raises(EnvironmentError_) as raised:
            run(suite_of(tmp_path / "b", failures_max=0.05), servers=servers)
    assert "1 of 12 answers of the final model to suite sums failed" in str(raised.value)
    assert "failures_max=0.05; 1 times: empty" in str(raised.value)
    assert not (tmp_path / "b" / "final").exists()


def test_messages_go_to_the_chat_and_prompts_where_they_should(tmp_path: Path) -> None:
    with served(Server(answer=lambda prompt, time: said("2"))) as server:
        suites.answer(
            suite_of(tmp_path, chat=True, stop="\n", failures_max=1.0),
            target=target(server.url),
            progress=no_progress,
        )
    assert {header["path"] for header in server.headers} == {"/v1/chat/completions"}
    assert server.bodies[0]["stop"] == "\n"
    assert server.bodies[0]["messages"][0]["role"] == "user"


def judged(choose: Callable[[str], str]) -> Callable[[str, int], Answer]:
    return lambda prompt, time: said(choose(prompt))


def prefers_right(prompt: str) -> str:
    _, _, answers = prompt.partition("## Answer A\n")
    first, _, second = answers.partition("\n\n## Answer B\n")
    number = int(prompt.partition("## Question\n")[2].partition("+")[0])
    good = [text.strip() == str(2 * number) for text in (first, second)]
    winner = "tie" if good[0] == good[1] else "A" if good[0] else "B"
    return json.dumps({"verdict": winner, "reason": "sum"})


def test_a_judge_s_preference_is_the_score(tmp_path: Path) -> None:
    with (
        served(Server(answer=half_right)) as base,
        served(Server(answer=right)) as final,
        served(Server(answer=judged(prefers_right))) as judge,
    ):
        config = JudgeConfig(url=judge.url, model="judge")
        suite = suite_of(tmp_path, metric="judge", judge=config)
        outcome = run(suite, servers={"base": base, "final": final})
        assert (outcome.wins, outcome.ties, outcome.losses) == (6, 6, 0)
        assert outcome.agreement == 1.0
        assert (outcome.base, outcome.final) == (0.25, 0.75)
        asked = len(judge.bodies)
        assert asked == 2 * 6  # Equal answers need no judge.
        run(suite, servers={"base": base, "final": final})
        assert len(judge.bodies) == asked


def test_items_without_a_verdict_are_left_out_of_both(tmp_path: Path) -> None:
    def choose(prompt: str) -> str:
        return "well" if "3+3=" in prompt else prefers_right(prompt)

    with (
        served(Server(answer=half_right)) as base,
        served(Server(answer=right)) as final,
        served(Server(answer=judged(choose))) as judge,
    ):
        config = JudgeConfig(url=judge.url, model="judge")
        servers = {"base": base, "final": final}
        outcome = run(suite_of(tmp_path, metric="judge", judge=config), servers=servers)
        assert outcome.num_scored == 11
        assert outcome.unscored == {"no JSON object with a verdict: well": 1}
        for role in ("base", "final"):
            ids = [item.id for item in read_scores(tmp_path / role / "sums.jsonl").items]
            assert "q3" not in ids
            assert len(ids) == 11
        strict = suite_of(tmp_path / "b", metric="judge", judge=config, failures_max=0.0)
        with pytest.raises(EnvironmentError_, match="1 of 12 verdicts to suite sums failed"):
            run(strict, servers=servers)


def test_a_judge_needs_a_server(tmp_path: Path) -> None:
    with served(Server(answer=right)) as server, pytest.raises(ConfigError, match=r"judge\.url"):
        run(suite_of(tmp_path, metric="judge"), servers={"base": server, "final": server})


def test_keys_are_sent_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with (
        served(Server(answer=right)) as model,
        served(Server(answer=half_right)) as base,
        served(Server(answer=judged(prefers_right))) as judge,
    ):
        config = JudgeConfig(url=judge.url, model="judge", key_variable="JUDGE_KEY")
        suite = suite_of(tmp_path, metric="judge", judge=config)
        run(suite, servers={"base": base, "final": model})
    assert {header["Authorization"] for header in judge.headers} == {"Bearer sk-secret"}
    assert all("Authorization" not in header for header in model.headers)
    assert not any(b"sk-secret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_metrics_here_reach_no_other_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection of this process beyond it fails, and all metrics have their scores."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    with served(Server(answer=half_right)) as base, served(Server(answer=right)) as final:
        for metric in ("exact_match", "contains", "chrf", "bleu", "rouge_l"):
            suite = suite_of(tmp_path / metric, metric=metric)
            assert list(leaving(suite)) == []
            outcome = run(suite, servers={"base": base, "final": final})
            assert outcome.final == pytest.approx(1.0)
