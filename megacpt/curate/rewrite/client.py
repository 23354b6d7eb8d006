# SPDX-License-Identifier: Apache-2.0
"""A server with the OpenAI interface, asked again where it may answer later."""

from __future__ import annotations

import email.utils
import json
import re
import threading
import time
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, build_opener
from urllib.request import Request as HttpRequest

from megacpt.curate.rewrite.request import ModelRequest, Reply
from megacpt.curate.rewrite.settings import EndpointConfig
from megacpt.device.environment import secret
from megacpt.errors import ConfigError, EnvironmentError_

FIRST_WAIT_S, WAIT_MAX_S = 1.0, 120.0
WORDS_MAX = 300
"""Characters shown of what a server says is wrong."""
REFUSALS_MAX = 8
"""... one after another from the first request on: then it is no document's fault."""
PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
OF_ONE = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""What a server says of a single request, such as one that is too long for its model."""
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Stopped(Exception):
    """Another request has failed, and no more are sent."""


class Client:
    """Sends requests, in any thread."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self._endpoint = endpoint
        self._url = _checked(endpoint.url)
        self._key = _key(endpoint)
        self._opener: OpenerDirector = build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._answered = False
        self._refusals = 0

    def stop(self) -> None:
        self._stopped.set()

    def ask(self, request: ModelRequest) -> Reply:
        wait_s, told = FIRST_WAIT_S, ""
        for attempt in range(self._endpoint.retries + 1):
            if self._stopped.wait(wait_s if attempt else 0):
                raise Stopped
            try:
                return self._reply(self._send(request))
            except HTTPError as error:
                with error:
                    told = f"{error.code} {_words(error.read(1 << 16))}".strip()
                if error.code in OF_ONE:
                    return self._refused(told)
                if error.code not in PASSING and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise self._failure(told) from error
                later_s = _later_s(error.headers.get("Retry-After"))
                wait_s = min(max(2 * wait_s, later_s), WAIT_MAX_S)
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                told = f"{type(error).__name__}: {error}"
                wait_s = min(2 * wait_s, WAIT_MAX_S)
        raise self._failure(f"{told}, also when asked {self._endpoint.retries} times more")

    def _send(self, request: ModelRequest) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        sent = HttpRequest(self._url, json.dumps(request.body).encode(), headers, method="POST")
        with self._opener.open(sent, timeout=self._endpoint.timeout_s) as answer:
            return json.loads(answer.read())

    def _reply(self, content: Any) -> Reply:
        self._answered = True
        choice = content["choices"][0]
        said = choice["message"].get("content") or ""
        if isinstance(said, list):
            said = "".join(part.get("text", "") for part in said)
        text = _THOUGHT.sub("", said, count=1).strip() if "<think>" in said[:100] else said.strip()
        if choice.get("finish_reason") == "length":
            return Reply(text, problem="reply over max_tokens")
        text.encode("utf-8")  # JSON can escape half a surrogate pair.
        return Reply(text, problem="" if text else "empty reply")

    def _refused(self, told: str) -> Reply:
        self._refusals += 1
        if not self._answered and self._refusals >= REFUSALS_MAX:
            raise self._failure(told)
        return Reply(told, problem="refused by the endpoint")

    def _failure(self, told: str) -> EnvironmentError_:
        return EnvironmentError_(
            f"{self._url} does not answer ({told}); see to it and start the same command again: "
            f"the replies so far are in {self._endpoint.cache}."
        )


class _NoRedirect(HTTPRedirectHandler):
    """Elsewhere the key would go along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise ConfigError(
            "rewrite.endpoint.url must be like https://HOST/v1, without a name or password, which "
            "would be written down; a key comes from rewrite.endpoint.key_variable."
        )
    return f"{url.rstrip('/')}/chat/completions"


def _key(endpoint: EndpointConfig) -> str:
    if endpoint.key_variable is None:
        return ""
    key = secret(endpoint.key_variable).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise EnvironmentError_(
            f"rewrite.endpoint.key_variable={endpoint.key_variable} holds no key; set that "
            "environment variable."
        )
    return key


def _words(content: bytes) -> str:
    """What is wrong, as the server puts it."""
    try:
        found = json.loads(content)
        error = found.get("error", found)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        text = content.decode("utf-8", "replace")
    return " ".join(text.split())[:WORDS_MAX]


def _later_s(value: str | None) -> float:
    """Retry-After: seconds, or a date."""
    if value is None:
        return 0.0
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
