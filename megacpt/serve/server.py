# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: three paths of OpenAI's interface, a thread a connection."""

from __future__ import annotations

import hmac
import itertools
import json
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import orjson

from megacpt.errors import EnvironmentError_
from megacpt.serve.engine import CANCELLED, ENDING, Engine, EngineFailed, Prompt, Writing
from megacpt.serve.errors import ApiError
from megacpt.serve.model import ServedModel
from megacpt.serve.replies import Replies
from megacpt.serve.request import Asked, read_chat, read_completion

BODY_BYTES_MAX = 16 << 20
LENGTH = re.compile("[0-9]{1,9}")
IDLE_S = 120.0
"""A connection that says nothing for so long is closed."""
SETTLE_S = 5.0
"""For telling clients that the server is ending."""
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"


class Service:
    """What the paths do, without HTTP. ``key``: what requests must bring, empty for none."""

    def __init__(self, served: ServedModel, *, engine: Engine, key: str = "") -> None:
        self.served, self._engine, self._key = served, engine, key
        self._num_under_way, self._changed = 0, threading.Condition()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with self._changed:
            self._num_under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_under_way -= 1
                self._changed.notify_all()

    def settle(self) -> None:
        """Wait until every request has its answer, but not for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_under_way == 0, timeout=SETTLE_S)

    def require_key(self, authorization: str) -> None:
        wanted = f"Bearer {self._key}".encode()
        if self._key and not hmac.compare_digest(authorization.encode(), wanted):
            raise ApiError(
                "the key is missing or wrong; send it as Authorization: Bearer KEY.",
                status=HTTPStatus.UNAUTHORIZED,
                kind="authentication_error",
            )

    def models(self) -> dict[str, object]:
        served = {"id": self.served.name, "object": "model", "created": 0, "owned_by": "megacpt"}
        return {"object": "list", "data": [served]}

    def asked(self, path: str, *, body: object) -> Asked:
        asked = read_chat(body) if path == CHAT else read_completion(body)
        named = body.get("model") if isinstance(body, dict) else None
        if named != self.served.name:
            raise ApiError(
                f"model={named} is not served here; {self.served.name} is.",
                status=HTTPStatus.NOT_FOUND,
                param="model",
            )
        return asked

    def write(self, asked: Asked) -> list[Writing]:
        """The texts, which are being written; ApiError before any is begun."""
        served = self.served
        if asked.messages:
            rows, ends = [served.encode_chat(asked.messages)], served.turn_end_ids
        else:
            rows, ends = [served.encode(prompt) for prompt in asked.prompts], served.end_ids
        prompts = [self._prompt(ids, asked=asked, end_ids=ends) for ids in rows]
        return [self._engine.submit(prompt) for prompt in prompts]

    def _prompt(self, ids: tuple[int, ...], *, asked: Asked, end_ids: frozenset[int]) -> Prompt:
        room = self.served.context_tokens - len(ids)
        if not ids:
            raise ApiError("the prompt is empty; send at least one token.", param="prompt")
        if room < (asked.max_tokens or 1):
            raise ApiError(
                f"{len(ids)} tokens of the prompt and {asked.max_tokens or 1} to be written are "
                f"more than the model's {self.served.context_tokens}; shorten one of them.",
                param="max_tokens",
            )
        return Prompt(
            ids=ids,
            max_tokens=asked.max_tokens or room,
            sampling=asked.sampling,
            stop=asked.stop,
            end_ids=end_ids,
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server_version = "megacpt"

    def __init__(self, *arguments: object, service: Service) -> None:
        self._service = service
        super().__init__(*arguments)  # type: ignore[arg-type]

    def handle(self) -> None:
        """A client that has left needs no answer."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._told(self._get)

    def do_POST(self) -> None:
        self._told(self._post)

    def _told(self, answer: Callable[[bytes], None]) -> None:
        """An error in OpenAI's form."""
        with self._service.under_way():
            try:
                content = self._content()
                self._service.require_key(self.headers.get("Authorization", ""))
                answer(content)
            except ApiError as error:
                self._send(error.body, status=error.status)

    def _content(self) -> bytes:
        """Read whatever comes of it: the next request of the connection begins behind it."""
        length = self.headers.get("Content-Length", "" if self.command == "POST" else "0")
        if not LENGTH.fullmatch(length) or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise ApiError(
                f"a body of at most {BODY_BYTES_MAX} bytes with Content-Length is needed.",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return self.rfile.read(int(length))

    def _get(self, _content: bytes) -> None:
        path = urlsplit(self.path).path.rstrip("/")
        models = self._service.models()
        if path == MODELS:
            return self._send(models)
        if path in ("/health", "/v1/health"):
            return self._send({"status": "ok"})
        if path == f"{MODELS}/{self._service.served.name}":
            return self._send(models["data"][0])  # type: ignore[index]
        raise self._unknown(path)

    def _post(self, content: bytes) -> None:
        body = self._json(content)
        path = urlsplit(self.path).path.rstrip("/")
        if path not in (CHAT, COMPLETIONS):
            raise self._unknown(path)
        asked = self._service.asked(path, body=body)
        writings = self._service.write(asked)
        replies = Replies(model=self._service.served.name, is_chat=path == CHAT)
        try:
            if asked.stream:
                self._stream(writings[0], replies=replies, with_usage=asked.with_usage)
            else:
                texts = ["".join(self._heard(writing)) for writing in writings]
                _require_whole(writings)
                self._send(replies.whole(texts, writings=writings))
        finally:
            for writing in writings:
                writing.cancelled.set()

    def _json(self, content: bytes) -> object:
        if self.headers.get_content_type() != "application/json":
            # A page in a browser can send other types to this machine without being asked.
            raise ApiError("Content-Type must be application/json.")
        try:
            return orjson.loads(content)  # Which takes no half of a surrogate pair.
        except ValueError as error:
            raise ApiError(f"the body is no JSON: {error}.") from error

    def _unknown(self, path: str) -> ApiError:
        return ApiError(
            f"there is no {self.command} {path}; there are {MODELS}, {COMPLETIONS} and {CHAT}.",
            status=HTTPStatus.NOT_FOUND,
        )

    def _heard(self, writing: Writing) -> Iterator[str]:
        """Its pieces, for as long as the client is there to hear them."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        for piece in writing:
            if poll.poll(0) and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError
            yield piece

    def _stream(self, writing: Writing, *, replies: Replies, with_usage: bool) -> None:
        """Server-sent events; the connection's end is theirs."""
        pieces = self._heard(writing)
        begun = next(pieces, "")  # What fails at once is told as any other error.
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in replies.first():
            self._event(event)
        try:
            for piece in itertools.chain([begun], pieces):
                self._event(replies.piece(piece))
            _require_whole([writing])
        except EngineFailed as error:
            self._event(error.body)
            return
        self._event(replies.last(writing))
        if with_usage:
            self._event(replies.usage_chunk(writing))
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, content: object) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()

    def _send(self, content: object, *, status: HTTPStatus = HTTPStatus.OK) -> None:
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Prompts are nobody's business."""


def _require_whole(writings: Sequence[Writing]) -> None:
    if any(writing.finish == CANCELLED for writing in writings):
        raise EngineFailed(ENDING)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(
    served: ServedModel, *, host: str, port: int, batch_max: int, key: str = ""
) -> Iterator[str]:
    """The address, up to /v1, for as long as the block lasts. ``port`` 0: a free one."""
    engine = Engine(served, batch_max=batch_max)
    service = Service(served, engine=engine, key=key)
    try:
        server = _Server((host, port), partial(_Handler, service=service))
    except OSError as error:
        engine.close()
        raise EnvironmentError_(
            f"{host}:{port} cannot be listened at ({error.strerror}); choose a --host of this "
            "machine and another --port, or --port 0 for a free one."
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
    )
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        engine.close()
        service.settle()
        server.server_close()
