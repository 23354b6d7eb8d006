# SPDX-License-Identifier: Apache-2.0
"""Answers of the pipeline under test, a program or an address, which itself asks the model."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from megacpt.device.environment import for_child
from megacpt.endpoint.client import Client, Refused, Server, Stopped
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.evaluate import journal
from megacpt.evaluate.usefulness.answer import Answer, Target
from megacpt.evaluate.usefulness.questions import Question

ANSWER_BYTES_MAX = 1 << 20
WORDS_MAX = 200
"""Characters shown of what a program says is wrong."""


class CommandAnswerer:
    """A process a question: a prompt, or messages as JSON, on its input; the answer on its output.

    OPENAI_BASE_URL and OPENAI_MODEL name the model, which OpenAI's clients read by themselves.
    """

    def __init__(self, command: str, *, target: Target, timeout_s: float, where: str) -> None:
        self._target, self._timeout_s, self._where = target, timeout_s, where
        self._command = command
        self._argv = argv_of(command, target=target)
        self._lock, self._is_stopped = threading.Lock(), False
        self._running: set[subprocess.Popen[bytes]] = set()

    def key(self, question: Question) -> str:
        return journal.key_of(self._target.fingerprint, "command", self._command, _asked(question))

    def __call__(self, question: Question) -> Answer:
        with self._lock:
            if self._is_stopped:
                raise Stopped
            process = self._start()
            self._running.add(process)
        try:
            return self._answer(process, given=_asked(question))
        finally:
            with self._lock:
                self._running.discard(process)
            _end(process)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                _kill(process)

    def _start(self) -> subprocess.Popen[bytes]:
        more = {"OPENAI_BASE_URL": self._target.url, "OPENAI_MODEL": self._target.name}
        try:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=for_child(more=more),
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentError_(
                f"{self._where}={self._command} cannot be started ({error.strerror}); name a "
                "program by its path, or one that is on PATH."
            ) from error

    def _answer(self, process: subprocess.Popen[bytes], *, given: str) -> Answer:
        try:
            said, errors = process.communicate(given.encode(), timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return Answer(failure=f"no answer within {self._timeout_s:g} s")
        if process.returncode != 0:
            words = " ".join(errors.decode("utf-8", "replace").split())[-WORDS_MAX:]
            return Answer(failure=f"exit code {process.returncode}: {words}")
        if len(said) > ANSWER_BYTES_MAX:
            return Answer(failure=f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        text = said.decode("utf-8", "replace").strip()
        return Answer(text=text) if text else Answer(failure="empty")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, also where it has ended itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def argv_of(command: str, *, target: Target) -> Sequence[str]:
    words = words_of(command)
    return [w.replace("{url}", target.url).replace("{model}", target.name) for w in words]


def words_of(command: str) -> list[str]:
    """Cut as a shell does it, but none sees it. ConfigError: it cannot be cut."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"the command {command} cannot be cut into words: {error}.") from error
    if not words:
        raise ConfigError("the command is empty; name a program.")
    return words


class HttpAnswerer:
    """An address of the user's, sent a JSON object with the question and the model to use; its
    reply is one with an ``answer``."""

    def __init__(self, url: str, *, target: Target, timeout_s: float, retries: int) -> None:
        self._url, self._target = url, target
        self._client = Client(
            Server(
                url=url,
                timeout_s=timeout_s,
                retries=retries,
                remedy="see to it and start the same command again: answers are kept.",
            )
        )

    def key(self, question: Question) -> str:
        return journal.key_of(self._target.fingerprint, "endpoint", self._url, _asked(question))

    def __call__(self, question: Question) -> Answer:
        body = {
            "id": question.id,
            "question": question.prompt or None,
            "messages": list(question.messages) or None,
            "model_url": self._target.url,
            "model": self._target.name,
        }
        try:
            text = self._client.post(body, read=_answer_of)
        except (Refused, EnvironmentError_) as error:
            return Answer(failure=str(error))
        return Answer(text=text.strip()) if text.strip() else Answer(failure="empty")

    def stop(self) -> None:
        self._client.stop()


def _answer_of(content: Any) -> str:
    text = content["answer"]
    if not isinstance(text, str):
        raise TypeError("the reply's answer is no text")
    return text


def _asked(question: Question) -> str:
    return question.prompt or json.dumps({"messages": list(question.messages)})
