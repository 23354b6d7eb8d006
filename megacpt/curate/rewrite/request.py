# SPDX-License-Identifier: Apache-2.0
"""What a model is asked about a document, and the replies so far, by what was asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from megacpt.curate.rewrite.settings import EndpointConfig
from megacpt.curate.rewrite.templates import environment, read_prompt, tidy
from megacpt.endpoint.reply import Reply
from megacpt.errors import ConfigError, DataError
from megacpt.files import write_first


class ModelRequest(NamedTuple):
    body: dict[str, Any]
    key: str
    """sha256 of what is asked, and of whom."""

    @property
    def num_bytes(self) -> int:
        return sum(len(said["content"].encode()) for said in self.body["messages"])


class Asker:
    """Makes requests of texts."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self._url = endpoint.url
        self._prompt = environment().from_string(read_prompt(endpoint.prompt))
        self._fields = {
            "model": endpoint.model,
            "max_tokens": endpoint.max_tokens,
            "temperature": endpoint.temperature,
            **extra_fields(endpoint),
        }

    def __call__(self, text: str) -> ModelRequest:
        said = tidy(self._prompt.render(text=text))
        body = {**self._fields, "messages": [{"role": "user", "content": said}]}
        body = {name: value for name, value in body.items() if value is not None}
        asked = json.dumps([self._url, body], sort_keys=True)
        return ModelRequest(body, hashlib.sha256(asked.encode()).hexdigest())


def extra_fields(endpoint: EndpointConfig) -> dict[str, Any]:
    try:
        fields = json.loads(endpoint.extra)
    except ValueError as error:
        raise _no_object(endpoint) from error
    if not isinstance(fields, dict) or "messages" in fields:
        raise _no_object(endpoint)
    return fields


def _no_object(endpoint: EndpointConfig) -> ConfigError:
    return ConfigError(
        f"rewrite.endpoint.extra={endpoint.extra} is no JSON object of fields beside messages; "
        'write it like {"top_p": 0.9}.'
    )


class Cache:
    """FOLDER/ab/abcd....json, a file for each request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, request: ModelRequest) -> bool:
        return self._path(request).is_file()

    def get(self, request: ModelRequest) -> Reply | None:
        path = self._path(request)
        try:
            return Reply(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} holds no reply ({error}); remove it.") from error

    def put(self, reply: Reply, *, request: ModelRequest) -> Reply:
        """The reply that is there now: another run, on another machine, may have been first."""
        write_first(self._path(request), text=json.dumps(reply._asdict()) + "\n")
        return self.get(request) or reply

    def _path(self, request: ModelRequest) -> Path:
        return self._folder / request.key[:2] / f"{request.key}.json"
