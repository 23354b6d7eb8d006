# SPDX-License-Identifier: Apache-2.0
"""Documents as a model writes them again: many asked at once, each only once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from megacpt.curate.rewrite.client import RewriteClient
from megacpt.curate.rewrite.drafts import MADE, Draft
from megacpt.curate.rewrite.request import Asker, Cache, ModelRequest
from megacpt.curate.rewrite.settings import EndpointConfig
from megacpt.endpoint.reply import Reply


def is_asked(draft: Draft) -> bool:
    """Whether a model gets to see it: it is left, and none has written it yet."""
    made = draft.document.fields.get(MADE)
    return not draft.drops and not (isinstance(made, dict) and "model" in made)


class Reviser:
    """Called in several threads, which together keep ``concurrency`` requests under way."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self._model = endpoint.model
        self._asker, self._cache = Asker(endpoint), Cache(Path(endpoint.cache))
        self._client = RewriteClient(endpoint)
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint")
        self._under_way: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def __call__(self, drafts: Sequence[Draft]) -> list[Draft]:
        try:
            asked = [
                self._submit(self._asker(draft.document.text)) if is_asked(draft) else None
                for draft in drafts
            ]
            replies = [future.result() if future is not None else None for future in asked]
        except BaseException as error:  # Ctrl-C too: nothing more is sent.
            raise self._ended_by(error) from error
        return [
            draft if reply is None else self._revised(draft, reply=reply)
            for draft, reply in zip(drafts, replies, strict=True)
        ]

    def _submit(self, request: ModelRequest) -> Future[Reply]:
        """One future for all who ask the same: a second reply could be another one."""
        with self._lock:
            future = self._under_way.get(request.key)
            if future is None:
                future = self._pool.submit(self._reply, request)
                self._under_way[request.key] = future
        return future

    def _reply(self, request: ModelRequest) -> Reply:
        reply = self._cache.get(request)
        if reply is None:
            try:
                reply = self._client.ask(request)
            except Exception as error:
                self._ended_by(error)
                raise
            if not reply.problem.startswith("refused"):
                reply = self._cache.put(reply, request=request)
        with self._lock:
            del self._under_way[request.key]
        return reply

    def _ended_by(self, error: BaseException) -> BaseException:
        """Stop all; what went wrong first, which the others were stopped for."""
        with self._lock:
            self._error = self._error or error
        self._client.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self._error

    def _revised(self, draft: Draft, *, reply: Reply) -> Draft:
        if reply.problem:
            return draft.noting(reply.problem, reply=reply.text[:200])
        if reply.text == draft.document.text:
            return draft.noting(f"left as it is by {self._model}")
        return draft.with_text(reply.text, rule=f"written by {self._model}", model=self._model)
