# SPDX-License-Identifier: Apache-2.0
"""JSON sent to a server, again where it may answer later: the one policy of asking again."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, build_opener
from urllib.request import Request as HttpRequest

from megacpt.config.address import is_local, is_usable
from megacpt.device.environment import secret
from megacpt.errors import ConfigError, EnvironmentError_

T = TypeVar("T")
FIRST_WAIT_S, WAIT_MAX_S = 1.0, 120.0
WORDS_MAX = 300
"""Characters shown of what a server says is wrong."""
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


class Stopped(Exception):
    """Another request has failed, and no more are sent."""


class Refused(Exception):
    """The server will not have this one request; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """``url``: of ``checked_url``. ``remedy``: ends the message where the server fails."""

    url: str
    key: str = ""
    timeout_s: float
    retries: int
    """Of a request that fails for a reason that may pass, after longer and longer waits."""
    remedy: str


class Client:
    """Sends requests, in any thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # A proxy of the user's is for the world, not for this machine.
        direct = [ProxyHandler({})] if is_local(server.url) else []
        self._opener: OpenerDirector = build_opener(_NoRedirect, *direct)
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def post(self, body: object, *, read: Callable[[Any], T]) -> T:
        """What ``read`` makes of the reply; where it cannot (ValueError, LookupError, TypeError),
        the server is asked again. Raises Refused, Stopped, or EnvironmentError_ for the server."""
        wait_s, told = FIRST_WAIT_S, ""
        for attempt in range(self._server.retries + 1):
            if self._stopped.wait(wait_s if attempt else 0):
                raise Stopped
            try:
                return read(self._send(body))
            except HTTPError as error:
                with error:
                    told = f"{error.code} {_words(error.read(1 << 16))}".strip()
                if error.code in OF_ONE:
                    raise Refused(told) from error
                if error.code not in PASSING and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise self.failure(told) from error
                later_s = _later_s(error.headers.get("Retry-After"))
                wait_s = min(max(2 * wait_s, later_s), WAIT_MAX_S)
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                told = f"{type(error).__name__}: {error}"
                wait_s = min(2 * wait_s, WAIT_MAX_S)
        raise self.failure(f"{told}, also when asked {self._server.retries} times more")

    def failure(self, told: str) -> EnvironmentError_:
        return EnvironmentError_(
            f"{self._server.url} does not answer ({told}); {self._server.remedy}"
        )

    def _send(self, body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._server.key:
            headers["Authorization"] = f"Bearer {self._server.key}"
        sent = HttpRequest(self._server.url, json.dumps(body).encode(), headers, method="POST")
        with self._opener.open(sent, timeout=self._server.timeout_s) as answer:
            return json.loads(answer.read())


class _NoRedirect(HTTPRedirectHandler):
    """Elsewhere the key would go along."""

    def redirect_request(
        self, req: HttpRequest, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def checked_url(url: str, *, setting: str, key_setting: str) -> str:
    if not is_usable(url):
        raise ConfigError(
            f"{setting} must be like https://HOST/v1, without a name or password, which "
            f"would be written down; a key comes from {key_setting}."
        )
    return url.rstrip("/")


def key_of(variable: str | None, *, setting: str) -> str:
    """The key that an environment variable holds; empty where none is named."""
    if variable is None:
        return ""
    key = secret(variable).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise EnvironmentError_(
            f"{setting}={variable} holds no key; set that environment variable."
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
