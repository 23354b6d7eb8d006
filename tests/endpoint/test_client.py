# SPDX-License-Identifier: Apache-2.0
"""Replies that cannot be read, servers of this machine behind a proxy, and what a stop does."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.endpoint import client
from megacpt.endpoint.client import Client, Refused, Server, Stopped
from megacpt.errors import EnvironmentError_
from tests.openai_server import Answer, served
from tests.openai_server import Server as Listener


def asked(url: str, *, retries: int = 0) -> Client:
    return Client(Server(url=url, timeout_s=30, retries=retries, remedy="see to it."))


def text_of(content: Any) -> str:
    return str(content["text"])


def test_what_cannot_be_read_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)

    def answer(prompt: str, time: int) -> Answer:
        return 200, {"text": "x"} if time == 3 else {"words": "y"}

    with served(Listener(answer=answer)) as server:
        assert asked(server.url, retries=2).post({"prompt": "a"}, read=text_of) == "x"
        with pytest.raises(EnvironmentError_, match=r"KeyError: 'text'.*see to it\."):
            asked(server.url).post({"prompt": "b"}, read=text_of)


def test_a_server_here_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with served(Listener(answer=lambda prompt, time: (200, {"text": "x"}))) as server:
        assert asked(server.url).post({"prompt": "a"}, read=text_of) == "x"


def test_one_request_is_refused_and_a_stop_sends_none() -> None:
    with served(Listener(answer=lambda prompt, time: (422, {"error": "no"}))) as server:
        found = asked(server.url)
        with pytest.raises(Refused, match="422 no"):
            found.post({"prompt": "a"}, read=text_of)
        found.stop()
        with pytest.raises(Stopped):
            found.post({"prompt": "a"}, read=text_of)
    assert len(server.bodies) == 1
