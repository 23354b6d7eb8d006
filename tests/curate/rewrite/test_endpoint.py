# SPDX-License-Identifier: Apache-2.0
"""A model behind a server here: what it is sent, when nothing is, and what becomes of failures."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from megacpt.curate.rewrite import client
from megacpt.endpoint import client as connection
from megacpt.errors import ConfigError, EnvironmentError_, MegacptError
from tests.curate.rewrite.test_run import curate, qa, read, write
from tests.openai_server import Answer, Server, said, served

ROWS = [{"id": f"d{n}", "text": f"Text {n}, in German: Grüße."} for n in range(30)]


def shouted(prompt: str, time: int) -> Answer:
    return said(prompt.rpartition("\n\n")[2].upper())


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def words(folder: Path, server: Server, *more: str) -> list[str]:
    section = "rewrite.endpoint"
    settings = (f"url={server.url}", "model=small", "sources=a", f"cache={folder / 'cache'}", *more)
    path = folder / "a.jsonl"
    if not path.exists():
        write(path, ROWS)
    return [f"sources.a.files={path}", *(f"{section}.{setting}" for setting in settings)]


def test_every_document_is_asked_once_and_its_reply_is_its_text(tmp_path: Path) -> None:
    with served(Server(answer=shouted, delay_s=0.02)) as server:
        found = curate(tmp_path, *words(tmp_path, server, "max_requests=30", "concurrency=5"))
    documents = read(tmp_path / "out", "a")
    assert [d["text"] for d in documents] == [row["text"].upper() for row in ROWS]
    assert [d["id"] for d in documents] == [row["id"] for row in ROWS]
    assert all(d["rewritten"] == {"model": "small"} for d in documents)
    assert set(server.times.values()) == {1}
    assert len(server.times) == len(ROWS)
    assert server.at_once_max == 5
    body = server.bodies[0]
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    assert body["messages"][0]["role"] == "user"
    assert {h["path"] for h in server.headers} == {"/v1/chat/completions"}
    assert "Authorization" not in server.headers[0]
    assert found.steps[0].counts["a"]["rules"]["written by small"]["documents"] == len(ROWS)


def test_nothing_is_sent_without_leave_and_the_cost_is_told(tmp_path: Path) -> None:
    with served(Server(answer=shouted)) as server:
        given = words(tmp_path, server, "price_in=2", "price_out=8", "max_tokens=1000")
        for more in ((), ("rewrite.endpoint.max_requests=29",)):
            with pytest.raises(ConfigError) as raised:
                curate(tmp_path, *given, *more)
            # 30 prompts; at most 30 x 1000 tokens back at 8 a million: 0.24, and little beside.
            assert "30 requests to small" in str(raised.value)
            assert "at most 30.0k" in str(raised.value)
            assert "at most about 0.24 at your prices" in str(raised.value)
            assert "max_requests=30" in str(raised.value)
            assert not (tmp_path / "out.work").exists()
        found = curate(tmp_path, *given, "rewrite.endpoint.yes=true", dry_run=True)
        assert server.bodies == []
        assert found.steps[0].findings["endpoint"]["documents"] == len(ROWS)
        curate(tmp_path, *given, "rewrite.endpoint.yes=true")
        assert len(server.bodies) == len(ROWS)


def test_what_is_in_the_cache_is_not_asked_again(tmp_path: Path) -> None:
    with served(Server(answer=shouted)) as server:
        curate(tmp_path, *words(tmp_path, server, "max_requests=30"))
        curate(tmp_path, *words(tmp_path, server), output="again")
        assert len(server.bodies) == len(ROWS)
        with pytest.raises(ConfigError, match="30 requests to small"):  # Another question.
            curate(tmp_path, *words(tmp_path, server, "temperature=0.1"), output="other")
    assert read(tmp_path / "again", "a") == read(tmp_path / "out", "a")


def test_after_a_failure_it_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    broken = threading.Event()

    def answer(prompt: str, time: int) -> Answer:
        if "Text 20," in prompt and not broken.is_set():
            return 401, {"error": {"message": "the key has expired"}}
        return shouted(prompt, time)

    with served(Server(answer=answer)) as server:
        given = words(tmp_path, server, "yes=true", "concurrency=2")
        with pytest.raises(EnvironmentError_, match=r"401 the key has expired.*replies so far"):
            curate(tmp_path, *given)
        assert not (tmp_path / "out").exists()
        asked = len(server.bodies)
        assert 20 <= asked < len(ROWS)
        broken.set()
        curate(tmp_path, *given)
        again = [body["messages"][0]["content"] for body in server.bodies[asked:]]
    done = list((tmp_path / "cache").rglob("*.json"))
    assert len(done) == len(ROWS)
    # Asked again: at most those that were under way, and the one that failed.
    assert sum(server.times[prompt] - 1 for prompt in again) <= 2
    assert [d["text"] for d in read(tmp_path / "out", "a")] == [r["text"].upper() for r in ROWS]


def test_after_a_kill_it_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    with served(Server(answer=shouted, delay_s=0.05)) as server:
        command = [sys.executable, "-m", "megacpt", "rewrite", str(path), "--yes"]
        command += ["--output", str(tmp_path / "out"), "form=jsonl", "endpoint.concurrency=2"]
        command += [f"endpoint.url={server.url}", "endpoint.model=small", "endpoint.sources=text"]
        command += [f"endpoint.cache={tmp_path / 'cache'}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
            while len(server.bodies) < 9:
                time.sleep(0.01)
                assert killed.poll() is None
            killed.kill()
        before = len(server.bodies)
        subprocess.run(command, check=True, capture_output=True)
    assert 9 <= before <= 12
    assert len(server.bodies) <= len(ROWS) + 3
    assert [d["text"] for d in read(tmp_path / "out", "text")] == [r["text"].upper() for r in ROWS]


def test_equal_documents_are_one_question(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"id": str(n), "text": "the same"} for n in range(20)])

    def answer(prompt: str, time: int) -> Answer:
        return said(f"reply {time}")

    with served(Server(answer=answer, delay_s=0.05)) as server:
        curate(tmp_path, *words(tmp_path, server, "yes=true"))
    assert {d["text"] for d in read(tmp_path / "out", "a")} == {"reply 1"}
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": "slow"}),
        (503, b"<html>busy"),
        (500, {}),
        (200, b"{broken"),
        (200, {"no": 1}),
    ],
)
def test_what_may_pass_is_asked_again(tmp_path: Path, failure: Answer) -> None:
    def answer(prompt: str, time: int) -> Answer:
        return failure if time < 3 else shouted(prompt, time)

    with served(Server(answer=answer)) as server:
        curate(tmp_path, *words(tmp_path, server, "yes=true", "retries=2"))
    assert set(server.times.values()) == {3}
    assert len(read(tmp_path / "out", "a")) == len(ROWS)


def test_a_server_says_when_to_come_again(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:1])

    def answer(prompt: str, time: int) -> Answer:
        return shouted(prompt, time) if time > 1 else (429, {})

    with served(Server(answer=answer, later="0.4")) as server:
        curate(tmp_path, *words(tmp_path, server, "yes=true"))
    assert server.asked_at[1] - server.asked_at[0] > 0.4


def test_what_does_not_pass_ends_it(tmp_path: Path) -> None:
    with (
        served(Server(answer=lambda prompt, time: (503, {"error": {"message": "busy"}}))) as server,
        pytest.raises(EnvironmentError_, match="503 busy, also when asked 1 times more"),
    ):
        curate(tmp_path, *words(tmp_path, server, "yes=true", "retries=1"))
    with pytest.raises(EnvironmentError_, match=r"does not answer \(URLError.*refused"):
        curate(tmp_path, *words(tmp_path, server, "yes=true", "retries=0"), output="other")


def test_replies_of_no_use_leave_the_document(tmp_path: Path) -> None:
    replies = {
        "Text 3,": said("cut", finish="length"),
        "Text 4,": said("  "),
        "Text 5,": (400, {"error": {"message": "context is too long"}}),
        "Text 6,": said("<think>well</think>\nThought."),
        "Text 7,": said(ROWS[7]["text"]),
    }

    def answer(prompt: str, time: int) -> Answer:
        return next((r for mark, r in replies.items() if mark in prompt), said("new"))

    with served(Server(answer=answer)) as server:
        found = curate(tmp_path, *words(tmp_path, server, "yes=true"))
    texts = [d["text"] for d in read(tmp_path / "out", "a")]
    kept = [row["text"] for row in ROWS]
    assert texts[3:8] == [*kept[3:6], "Thought.", kept[7]]
    assert set(texts[:3] + texts[8:]) == {"new"}
    rules = found.steps[0].counts["a"]["rules"]
    assert rules["refused by the endpoint"]["examples"][0]["reply"] == "400 context is too long"
    assert {"reply over max_tokens", "empty reply", "left as it is by small"} < set(rules)


def test_refusals_from_the_first_on_are_no_document_s_fault(tmp_path: Path) -> None:
    with (
        served(Server(answer=lambda prompt, time: (400, {"error": "no model small"}))) as server,
        pytest.raises(EnvironmentError_, match="400 no model small"),
    ):
        curate(tmp_path, *words(tmp_path, server, "yes=true", "concurrency=1"))
    assert len(server.bodies) == client.REFUSALS_MAX


def test_the_key_is_sent_to_that_server_alone_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with served(Server(answer=shouted)) as server:
        curate(tmp_path, *words(tmp_path, server, "yes=true", "key_variable=MY_KEY"))
    assert {h["Authorization"] for h in server.headers} == {"Bearer sk-secret"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-secret" not in path.read_bytes(), path
    with (
        served(Server(answer=lambda prompt, time: (302, {}))) as server,
        pytest.raises(EnvironmentError_) as raised,
    ):
        curate(
            tmp_path,
            *words(tmp_path, server, "yes=true", "key_variable=MY_KEY", "concurrency=1"),
            output="other",
        )
    assert "302" in str(raised.value)
    assert "sk-secret" not in str(raised.value)
    assert {h["path"] for h in server.headers} == {"/v1/chat/completions"}
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(EnvironmentError_, match="key_variable=MY_KEY holds no key"):
        curate(tmp_path, *words(tmp_path, server, "yes=true", "key_variable=MY_KEY"), output="o")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("url=https://me:pw@host/v1", "without a name or password"),
        ("url=host/v1", "must be like https"),
        ("extra=[1]", r"extra=\[1\] is no JSON object"),
        ("sources=b", "b is no source that is trained on; there is a"),
        ("prompt=nowhere", "neither encyclopedia and textbook nor a file"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, setting: str, message: str) -> None:
    server = Server(answer=shouted, url="http://127.0.0.1:9/v1")
    with pytest.raises(MegacptError, match=message) as raised:
        curate(tmp_path, *words(tmp_path, server, "yes=true", setting))
    assert "pw" not in str(raised.value)


def test_fields_that_a_server_wants_otherwise(tmp_path: Path) -> None:
    extra = '{"max_tokens": null, "max_completion_tokens": 7, "top_p": 0.5}'
    with served(Server(answer=shouted)) as server:
        curate(tmp_path, *words(tmp_path, server, "yes=true", f"extra={extra}"))
    assert server.bodies[0]["max_completion_tokens"] == 7
    assert server.bodies[0]["top_p"] == 0.5
    assert "max_tokens" not in server.bodies[0]


def test_records_are_told_by_templates_before(tmp_path: Path) -> None:
    with served(Server(answer=shouted)) as server:
        given = [
            w for w in words(tmp_path, server, "yes=true", "sources=qa") if "sources.a" not in w
        ]
        curate(tmp_path, *qa(tmp_path), *given)
    documents = read(tmp_path / "out")
    assert all(d["text"].endswith(f"IT IS {n}.") for n, d in enumerate(documents))
    assert all(set(d["rewritten"]) == {"template", "model"} for d in documents)
