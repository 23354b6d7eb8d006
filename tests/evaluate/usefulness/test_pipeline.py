# SPDX-License-Identifier: Apache-2.0
"""Pipelines under test: real programs and a real address, well-behaved and not."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from megacpt.endpoint import client
from megacpt.endpoint.client import Stopped
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.evaluate.usefulness.pipeline import CommandAnswerer, HttpAnswerer, argv_of
from megacpt.evaluate.usefulness.questions import Question
from tests.evaluate.usefulness.cases import target
from tests.openai_server import Answer, Server, served

ASKED = Question(id="q", cluster="q", prompt="What; is $(this)?")
SAID = Question(id="q", cluster="q", messages=({"role": "user", "content": "Hi"},))


def program(code: str, *, timeout_s: float = 60.0) -> CommandAnswerer:
    command = shlex.join([sys.executable, "-c", code, "{url}"])
    return CommandAnswerer(command, target=target(), timeout_s=timeout_s, where="w.command")


def test_a_program_reads_the_question_and_knows_the_model() -> None:
    code = (
        "import os, sys; print(sys.stdin.read(), sys.argv[1], "
        "os.environ['OPENAI_BASE_URL'], os.environ['OPENAI_MODEL'], sep='|')"
    )
    url = target().url
    assert program(code)(ASKED).text == f"What; is $(this)?|{url}|{url}|final"
    said = program("import sys; print(sys.stdin.read())")(SAID).text
    assert json.loads(said) == {"messages": [{"role": "user", "content": "Hi"}]}


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    command = f"echo '{{model}}' ; touch {tmp_path}/x $(id)"
    assert argv_of(command, target=target())[:3] == ["echo", "final", ";"]
    answer = CommandAnswerer(command, target=target(), timeout_s=60, where="w")(ASKED)
    assert answer.text == f"final ; touch {tmp_path}/x $(id)"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import sys; sys.exit('no index')", "exit code 1: no index"),
        ("pass", "empty"),
        ("print('x' * (2 << 20))", "more than 1048576 bytes"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", ""),
    ],
)
def test_failures_are_told(code: str, failure: str) -> None:
    answer = program(code, timeout_s=1.0 if "sleep" in code else 60.0)(ASKED)
    assert failure in answer.failure
    assert bool(answer.failure) == bool(failure)


def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
        f"\"import time; time.sleep(4); open('{tmp_path}/late', 'w')\"]); time.sleep(60)"
    )
    assert "no answer" in program(code, timeout_s=1.5)(ASKED).failure
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_a_stop_ends_programs_under_way() -> None:
    answerer = program("import time; time.sleep(60)")
    started_at = time.monotonic()
    threading.Timer(1.0, answerer.stop).start()
    assert answerer(ASKED).failure
    assert time.monotonic() - started_at < 30
    with pytest.raises(Stopped):
        answerer(ASKED)


def test_programs_that_cannot_be() -> None:
    with pytest.raises(EnvironmentError_, match="w=/nowhere/rag cannot be started"):
        CommandAnswerer("/nowhere/rag", target=target(), timeout_s=1, where="w")(ASKED)
    with pytest.raises(ConfigError, match="cannot be cut into words"):
        argv_of("rag 'x", target=target())
    with pytest.raises(ConfigError, match="is empty"):
        argv_of(" ", target=target())


def test_keys_are_of_model_program_and_question() -> None:
    other = CommandAnswerer("cat", target=target(role="base"), timeout_s=1, where="w")
    keys = {program("1").key(ASKED), program("2").key(ASKED), program("1").key(SAID)}
    assert len({*keys, other.key(ASKED)}) == 4


def answered(prompt: str, time: int) -> Answer:
    return 200, {"answer": f"{prompt.upper()} "}


def test_an_address_is_sent_the_question_and_the_model() -> None:
    server = Server(answer=answered)
    with served(server, prompt_of=lambda body: body["question"]):
        answerer = HttpAnswerer(server.url, target=target(), timeout_s=30, retries=0)
        assert answerer(ASKED).text == "WHAT; IS $(THIS)?"
    assert server.bodies == [
        {
            "id": "q",
            "question": ASKED.prompt,
            "messages": None,
            "model_url": target().url,
            "model": "final",
        }
    ]


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ((200, {"text": "x"}), "KeyError: 'answer'"),
        ((200, {"answer": 4}), "is no text"),
        ((200, {"answer": " "}), "empty"),
        ((400, {"error": "too long"}), "too long"),
        ((500, b"oops"), "500 oops, also when asked 1 times more"),
    ],
)
def test_failures_of_an_address(reply: Any, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)
    server = Server(answer=lambda prompt, time: reply)
    with served(server, prompt_of=lambda body: body["question"]):
        answerer = HttpAnswerer(server.url, target=target(), timeout_s=30, retries=1)
        assert failure in answerer(ASKED).failure
