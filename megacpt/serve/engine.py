# SPDX-License-Identifier: Apache-2.0
"""Texts from the model: requests that wait are generated together, each told as it grows."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import torch

from megacpt.serve.errors import ApiError
from megacpt.serve.model import ServedModel
from megacpt.serve.request import Sampling
from megacpt.serve.text import Detokenizer, StopScanner

GATHER_S = 0.01
"""What a first request waits for others to go with it; a step of a small model takes as long."""
STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"
ENDING = "the server is ending"
logger = logging.getLogger(__name__)


class EngineFailed(ApiError):
    """A text has no more tokens; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="server_error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """``max_tokens``: of the text that is written. ``end_ids``: tokens that end it."""

    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    end_ids: frozenset[int]


@dataclass(slots=True, kw_only=True, eq=False)
class Writing:
    """One text that is being written. ``finish``: why it has ended, ``stop`` or ``length``."""

    prompt: Prompt
    pieces: queue.SimpleQueue[str | EngineFailed | None] = field(default_factory=queue.SimpleQueue)
    """None is the end."""
    finish: str = ""
    num_tokens: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[str]:
        """Pieces of the text; EngineFailed where there are no more and should be."""
        while (piece := self.pieces.get()) is not None:
            if isinstance(piece, EngineFailed):
                raise piece
            yield piece


class Engine:
    """One thread that owns the model."""

    def __init__(self, served: ServedModel, *, batch_max: int) -> None:
        self._served, self._batch_max = served, batch_max
        self._waiting: list[Writing] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt) -> Writing:
        writing = Writing(prompt=prompt)
        with self._changed:
            if self._closed:
                writing.pieces.put(EngineFailed(ENDING))
            else:
                self._waiting.append(writing)
                self._changed.notify()
        return writing

    def close(self) -> None:
        """End the texts under way, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for writing in self._waiting:
            writing.pieces.put(EngineFailed(ENDING))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
            time.sleep(GATHER_S)
            with self._changed:
                batch = self._next()
            self._write(batch)

    def _next(self) -> list[Writing]:
        """The oldest, and those that wait and draw as it does; a seed is for one text alone."""
        sampling = self._waiting[0].prompt.sampling
        alike = [w for w in self._waiting if w.prompt.sampling == sampling]
        batch = alike[: self._batch_max if sampling.seed is None else 1]
        self._waiting = [w for w in self._waiting if w not in batch]
        return batch

    def _write(self, batch: Sequence[Writing]) -> None:
        rows = _Rows(batch, served=self._served, is_closed=lambda: self._closed)
        try:
            _generate(self._served, batch=batch, rows=rows)
        except Exception as error:  # Whatever it was, clients wait, and others will ask.
            logger.exception("The model failed; its clients are told so.")
            for writing in batch:
                failure = f"the model failed: {type(error).__name__}: {error}"
                writing.pieces.put(EngineFailed(failure))
        else:
            rows.end()


def _generate(served: ServedModel, *, batch: Sequence[Writing], rows: _Rows) -> None:
    """Prompts padded on their left; ``rows`` sees each new token and says which texts are done."""
    from transformers import GenerationConfig

    width = max(len(writing.prompt.ids) for writing in batch)
    pad_id = min(batch[0].prompt.end_ids, default=0)
    ids_BS = [(width - len(w.prompt.ids)) * [pad_id] + list(w.prompt.ids) for w in batch]
    mask_BS = [(width - len(w.prompt.ids)) * [0] + len(w.prompt.ids) * [1] for w in batch]
    sampling = batch[0].prompt.sampling
    settings: dict[str, Any] = {
        "max_new_tokens": max(writing.prompt.max_tokens for writing in batch),
        "pad_token_id": pad_id,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        # Without a seed a new one: what follows the draws of a seed is as fixed as they are.
        torch.seed() if sampling.seed is None else torch.manual_seed(sampling.seed % 2**63)
    with torch.inference_mode():
        served.model.generate(
            torch.tensor(ids_BS, device=served.device),
            attention_mask=torch.tensor(mask_BS, device=served.device),
            generation_config=GenerationConfig(**settings),
            stopping_criteria=[rows],
        )


class _Rows:
    """A stopping criterion of transformers: called after each step with all tokens so far."""

    def __init__(
        self, batch: Sequence[Writing], *, served: ServedModel, is_closed: Callable[[], bool]
    ) -> None:
        self._rows = [_Row(writing, served=served) for writing in batch]
        self._is_closed = is_closed

    def __call__(self, ids_BS: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        for row, token in zip(self._rows, ids_BS[:, -1].tolist(), strict=True):
            row.put(token)
        done = [row.is_done or self._is_closed() for row in self._rows]
        return torch.tensor(done, device=ids_BS.device)

    def end(self) -> None:
        """Every text has its end, also where the server stops amid it."""
        for row in self._rows:
            if not row.is_done:
                row.finish(CANCELLED)


class _Row:
    """One text of a batch."""

    def __init__(self, writing: Writing, *, served: ServedModel) -> None:
        self._writing = writing
        self._tokens = Detokenizer(served.decode, prompt_ids=writing.prompt.ids)
        self._scanner = StopScanner(writing.prompt.stop)
        self.is_done = False

    def put(self, token: int) -> None:
        writing = self._writing
        if self.is_done:
            return None
        if writing.cancelled.is_set():
            return self.finish(CANCELLED)
        writing.num_tokens += 1
        if token in writing.prompt.end_ids:
            return self.finish(STOP)
        self._tell(self._scanner.put(self._tokens.put(token)))
        if self._scanner.stopped:
            self.finish(STOP)
        elif writing.num_tokens >= writing.prompt.max_tokens:
            self.finish(LENGTH)
        return None

    def finish(self, reason: str) -> None:
        self.is_done = True
        if not self._scanner.stopped:
            self._tell(self._scanner.put(self._tokens.flush()))
            reason = STOP if self._scanner.stopped else reason
            self._tell(self._scanner.flush())
        self._writing.finish = reason
        self._writing.pieces.put(None)

    def _tell(self, text: str) -> None:
        if text:
            self._writing.pieces.put(text)
