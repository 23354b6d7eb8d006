# SPDX-License-Identifier: Apache-2.0
"""A server of this process with the OpenAI interface, whose answers a test decides."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""A status and what is told with it."""


def said(text: str, *, finish: str = "stop") -> Answer:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    return 200, {"object": "chat.completion", "choices": [choice]}


@dataclass(kw_only=True)
class Server:
    answer: Callable[[str, int], Answer]
    """To a prompt that is asked for the nth time."""
    url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    asked_at: list[float] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0
    delay_s: float = 0.0
    later: str | None = None
    """Retry-After of failures."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def last_said(body: Any) -> str:
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


@contextmanager
def served(server: Server, *, prompt_of: Callable[[Any], str] = last_said) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = prompt_of(body)
            with server.lock:
                server.headers.append({**self.headers, "path": self.path})
                server.bodies.append(body)
                server.asked_at.append(time.monotonic())
                server.times[prompt] += 1
                number = server.times[prompt]
                server.at_once += 1
                server.at_once_max = max(server.at_once, server.at_once_max)
            time.sleep(server.delay_s)
            status, content = server.answer(prompt, number)
            with server.lock:
                server.at_once -= 1
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if status != 200 and server.later is not None:
                self.send_header("Retry-After", server.later)
            if status in (301, 302, 307):
                self.send_header("Location", f"{server.url}/elsewhere")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_GET(self) -> None:
            """What follows a redirect asks so."""
            server.headers.append({**self.headers, "path": self.path})
            self.send_error(418)

        def log_message(self, format: str, *args: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
