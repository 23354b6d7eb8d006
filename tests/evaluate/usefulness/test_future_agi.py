# SPDX-License-Identifier: Apache-2.0
"""The package ai-evaluation itself, in its process: what it scores, and what it may not do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import FutureAgiConfig
from megacpt.endpoint.client import Stopped
from megacpt.errors import EnvironmentError_
from megacpt.evaluate.usefulness import future_agi
from megacpt.evaluate.usefulness.future_agi import FutureAgi, MetricFailed
from megacpt.evaluate.usefulness.questions import Question
from megacpt.plan.rules.usefulness import LOCAL_METRICS
from tests.openai_server import Answer, Server, served

pytest.importorskip("fi.evals")
pytestmark = pytest.mark.slow
QUESTION = Question(id="q", cluster="q", prompt="Capital?", references=("Париж 東京",))


@pytest.fixture(scope="module")
def metrics() -> Iterator[FutureAgi]:
    """Keys are there, and all proxies lead to a server here, which must see nothing."""
    server = Server(answer=lambda prompt, time: (200, {}))
    with served(server), pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.setenv(name, server.url.removesuffix("/v1"))
        patch.setenv("FI_API_KEY", "fi-secret")
        with FutureAgi(FutureAgiConfig(metric="equals", timeout_s=60)) as found:
            yield found
    assert server.headers == []


def score(metrics: FutureAgi, metric: str, answer: str) -> float:
    metrics._config.metric = metric
    return metrics.score(answer, question=QUESTION)


@pytest.mark.parametrize(
    ("metric", "answer", "wanted"),
    [
        ("equals", "Париж 東京", 1.0),
        ("equals", "Париж", 0.0),
        ("starts_with", "Париж 東京!", 1.0),
        ("ends_with", "In Париж 東京", 1.0),
        ("levenshtein_similarity", "Париж 東", 7 / 8),
        ("is_json", '{"a": 1}', 1.0),
        ("is_json", "a", 0.0),
        ("contains_json", 'so: {"a": 1}', 1.0),
        ("one_line", "a\nb", 0.0),
    ],
)
def test_local_metrics_are_right_in_all_scripts(
    metrics: FutureAgi, metric: str, answer: str, wanted: float
) -> None:
    assert metric in LOCAL_METRICS
    assert score(metrics, metric, answer) == pytest.approx(wanted)


def test_every_metric_that_settings_allow_is_the_package_s(metrics: FutureAgi) -> None:
    for metric in LOCAL_METRICS:
        assert score(metrics, metric, "x") in (0.0, 1.0)


def test_a_metric_that_is_none_has_no_score(metrics: FutureAgi) -> None:
    with pytest.raises(MetricFailed, match="not found in registry"):
        score(metrics, "nothing", "x")


def test_a_metric_that_hangs_is_ended_and_the_next_answer_scored() -> None:
    with FutureAgi(FutureAgiConfig(metric="equals", timeout_s=2.0)) as metrics:
        os.kill(metrics._process.pid, signal.SIGSTOP)
        with pytest.raises(MetricFailed, match="took longer than 2 s"):
            metrics.score("x", question=QUESTION)
        metrics._config.timeout_s = 60.0
        assert metrics.score("Париж 東京", question=QUESTION) == 1.0
        metrics.stop()
        with pytest.raises(Stopped):
            metrics.score("x", question=QUESTION)


def test_the_process_has_no_keys(metrics: FutureAgi) -> None:
    environment = Path(f"/proc/{metrics._process.pid}/environ").read_bytes()
    assert b"fi-secret" not in environment
    assert b"HF_HUB_OFFLINE=1" in environment


def test_the_process_has_no_network() -> None:
    """Whoever asks in it; faithfulness would fetch a model."""
    code = (
        "import json, sys; from megacpt.evaluate.usefulness import future_agi_process as p;"
        "sys.addaudithook(p.refuse_network); import socket, urllib.request\n"
        "found = []\n"
        "for go in (lambda: socket.create_connection(('127.0.0.1', 9)),"
        " lambda: socket.getaddrinfo('localhost', 80),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)),"
        " lambda: urllib.request.urlopen('http://127.0.0.1:9')):\n"
        "  try: go()\n"
        "  except OSError as error: found.append('no network here' in str(error))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == [True] * 4


def test_the_cloud_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FI_API_KEY", raising=False)
    monkeypatch.setenv("FI_SECRET_KEY", "x")
    with pytest.raises(EnvironmentError_, match="cloud=true needs FI_API_KEY; set that"):
        FutureAgi(FutureAgiConfig(metric="groundedness", cloud=True))


def test_the_cloud_is_asked_with_the_keys_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server here instead of Future AGI's, which the package takes from FI_BASE_URL."""

    def answer(prompt: str, time: int) -> Answer:
        found = {"name": "groundedness", "output": 0.75, "reason": "r", "output_type": "score"}
        return 200, {"result": [{"evaluations": [found]}]}

    server = Server(answer=answer)
    with served(server, prompt_of=lambda body: "evaluation"):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("FI_BASE_URL", server.url.removesuffix("/v1"))
        monkeypatch.setenv("FI_API_KEY", "fi-key")
        monkeypatch.setenv("FI_SECRET_KEY", "fi-secret")
        config = FutureAgiConfig(metric="groundedness", cloud=True, timeout_s=60)
        with FutureAgi(config) as metrics:
            assert metrics.score("Paris", question=QUESTION) == 0.75
    assert any("fi-key" in header.values() for header in server.headers)
    sent: Any = next(body for body in server.bodies)
    assert "Paris" in json.dumps(sent)
    assert "fi-secret" not in json.dumps(server.bodies)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(future_agi.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentError_, match=r"pip install 'megacpt\[usefulness\]'"):
        FutureAgi(FutureAgiConfig(metric="equals"))
